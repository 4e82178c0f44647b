//! DSI on a booted cluster: loads the module, makes the cluster, starts the server and the managers,
//! by the commands that an administrator would type. Suites that need servers begin here.

use crate::cluster::{Cluster, address6};
use crate::fault::Failure;
use crate::images::GUEST_MODULE;
use crate::node::{Node, Output, PATIENCE, Process};

/// Port of the server in the tests' clusters.
pub const PORT: u16 = 7430;

/// The control plane of a cluster.
pub struct Control {
    /// Name of the node with the server and the administrator.
    pub server: String,
    /// The server.
    pub ssd: Process,
    /// The managers, in the order in which they joined.
    pub smd: Vec<(String, Process)>,
    families: Families,
}

/// By what addresses nodes join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// Those that `smd join` finds by itself: IPv4, as the server's.
    Found,
    /// IPv4 and IPv6, given by name.
    Both,
}

/// Loads the module on a node, with parameters.
pub fn insmod(node: &Node, parameters: &[&str]) -> Result<Output, Failure> {
    let mut argv = vec!["insmod", GUEST_MODULE];
    argv.extend(parameters);
    node.run(&argv)?.ok()
}

impl Control {
    /// Makes a cluster whose server runs on `server`, and joins the nodes with these SnIDs. The module has to be loaded.
    pub fn start(
        cluster: &Cluster,
        server: &str,
        members: &[(&str, u32)],
        families: Families,
    ) -> Result<Self, Failure> {
        let on = cluster.node(server)?;
        let address = format!("{}:{PORT}", on.ip);
        on.run(&["dsictl", "cluster", "init", "telecom", "--server", &address])?
            .ok()?;
        let ssd = start_ssd(on)?;
        on.poll(&["dsictl", "status"], "telecom")?;
        let mut control = Self {
            server: server.into(),
            ssd,
            smd: Vec::new(),
            families,
        };
        for (name, snid) in members {
            control.join(cluster, name, *snid)?;
        }
        Ok(control)
    }

    /// Admits a node: a token from the administrator, carried to the node, spent there.
    pub fn join(&mut self, cluster: &Cluster, name: &str, snid: u32) -> Result<(), Failure> {
        let node = cluster.node(name)?;
        let token = self
            .dsictl(
                cluster,
                &["node", "join-token", name, "--snid", &snid.to_string()],
            )?
            .ok()?
            .stdout;
        node.write_mode("/root/join.token", token, 0o600)?;
        let [v4, v6] = [node.ip.to_string(), address6(node.index).to_string()];
        let mut argv = vec!["smd", "join", "--token-file", "/root/join.token"];
        if self.families == Families::Both {
            argv.extend(["--address", &v4, "--address", &v6]);
        }
        let joined = node.run(&argv)?.ok()?;
        // Who joins by one family is told what becomes of the other one, and what to type.
        match self.families {
            Families::Found => joined.says(&format!("--address {v4} --address {v6}"))?,
            Families::Both => joined.says_not("--address")?,
        };
        let smd = start_smd(node)?;
        self.smd.push((name.into(), smd));
        self.wait_connected(cluster, name)
    }

    /// Waits until the server counts a node as connected, with its keys in its kernel.
    pub fn wait_connected(&self, cluster: &Cluster, name: &str) -> Result<(), Failure> {
        let script = format!(
            "dsictl --json node list | python3 -c 'import json,sys; \
             n=[n for n in json.load(sys.stdin)[\"nodes\"] if n[\"name\"]==\"{name}\"]; \
             print(\"connected\" if n and n[0][\"connected\"] and n[0][\"key_epoch\"] else \"no\")'"
        );
        cluster
            .node(&self.server)?
            .poll(&["bash", "-c", &script], "connected")
            .map(drop)
    }

    /// The administrator's command, on the server's node.
    pub fn dsictl(&self, cluster: &Cluster, args: &[&str]) -> Result<Output, Failure> {
        let mut argv = vec!["dsictl"];
        argv.extend(args);
        Ok(cluster
            .node(&self.server)?
            .command(&argv)
            .timeout(PATIENCE)
            .run()?)
    }

    /// Applies a policy of the examples and waits until every node has it in its kernel.
    pub fn apply(&self, cluster: &Cluster, file: &str) -> Result<Output, Failure> {
        self.dsictl(cluster, &["policy", "apply", "--timeout", "170s", file])?
            .ok()
    }
}

/// Starts the server.
pub fn start_ssd(node: &Node) -> Result<Process, Failure> {
    node.spawn("ssd", &["ssd"])
}

/// Starts the manager of a node that has joined.
pub fn start_smd(node: &Node) -> Result<Process, Failure> {
    node.spawn("smd", &["smd", "run"])
}
