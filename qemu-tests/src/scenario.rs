//! The scenario of the article of 2004: two operators, PhoneMania and RingBell, share the nodes munster
//! and colby, and PhoneMania uses RingBell's back end. Steps (a) to (e) of the demonstration, each of
//! which says what is expected and checks what is seen. The demonstration tells them, the suite
//! `two-operators` runs them: there is one scenario.

use serde_json::Value;

use crate::check;
use crate::cluster::{Cluster, NodeSpec};
use crate::control::{Control, Families, insmod};
use crate::fault::Failure;
use crate::images::GUEST_POLICIES;
use crate::node::{Node, Output, Process};

/// The nodes.
pub const NODES: &[NodeSpec] = &[NodeSpec::new("munster"), NodeSpec::new("colby")];
/// Where the operators keep their programs, on both nodes.
const HOME: &str = "/srv/demo";
/// How long a client waits for what must come, and for what must not: an answer, or a connection.
const ALLOWED_MS: &str = "170000";
const DENIED_MS: &str = "20000";
/// Zone of PhoneMania.
const PHONEMANIA: u64 = 10;
/// Zone of RingBell.
const RINGBELL: u64 = 20;
/// Zone of maintenance.
const MAINTENANCE: u64 = 30;

/// Tells the scenario to a person, or to nobody.
#[derive(Clone, Copy)]
pub struct Teller {
    aloud: bool,
}

impl Teller {
    /// Prints everything.
    pub const ALOUD: Self = Self { aloud: true };
    /// Prints nothing.
    pub const SILENT: Self = Self { aloud: false };

    /// Begins a step.
    pub fn step(self, name: &str, title: &str) {
        if self.aloud {
            println!("\n== ({name}) {title}\n");
        }
    }

    /// Explains.
    pub fn explain(self, text: &str) {
        if self.aloud {
            text.lines().for_each(|line| println!("   {}", line.trim()));
        }
    }

    /// A command that was typed on a node, and what it printed.
    pub fn typed(self, node: &Node, output: &Output) {
        if self.aloud {
            println!("\n   [{}]# {}", node.name, output.command);
            for line in output.stdout.lines().chain(output.stderr.lines()) {
                println!("   {line}");
            }
        }
    }

    /// A program that was started in the background.
    pub fn started(self, node: &Node, command: &str) {
        if self.aloud {
            println!("   [{}]# {command} &", node.name);
        }
    }

    /// A line of a log.
    pub fn logged(self, whose: &str, line: &str) {
        if self.aloud {
            println!("   {whose}: {line}");
        }
    }

    /// What was expected and what was seen; only what was checked comes here.
    pub fn seen(self, expected: &str, seen: &str) {
        if self.aloud {
            println!("\n   expected: {expected}\n   seen:     {seen}");
        }
    }
}

/// The scenario, as far as it has come.
pub struct Scenario {
    teller: Teller,
    control: Control,
    programs: Vec<Process>,
    clients: Vec<(String, Process)>,
}

/// Runs a command on a node and tells it.
fn typed(teller: Teller, node: &Node, argv: &[&str]) -> Result<Output, Failure> {
    let output = node.run(argv)?;
    teller.typed(node, &output);
    Ok(output)
}

/// The line that begins like this, or the whole output.
fn line_with<'a>(output: &'a Output, text: &str) -> &'a str {
    output
        .stdout
        .lines()
        .chain(output.stderr.lines())
        .find(|line| line.contains(text))
        .unwrap_or(&output.stdout)
}

impl Scenario {
    /// Loads the module on both nodes, makes the cluster and joins them. There is no policy yet.
    pub fn begin(cluster: &Cluster, teller: Teller) -> Result<Self, Failure> {
        teller.step("0", "Two nodes, stock kernels, and DSI on them");
        teller.explain(
            "munster and colby are two machines with an unmodified Debian kernel. The module is loaded into
             the running kernels; colby also runs the security server (ssd). Each node's manager (smd) joins
             with a token that is good for one use.",
        );
        for node in cluster.nodes() {
            typed(teller, node, &["uname", "-r"])?.ok()?;
            let output = insmod(node, &[])?;
            teller.typed(node, &output);
            node.sh(&format!(
                "mkdir -p {HOME} && cp /opt/dsi/bin/PhoneMania* /opt/dsi/bin/RingBell* /opt/dsi/bin/TelecomClient {HOME}/ &&
                 cp /opt/dsi/bin/TelecomClient {HOME}/MaintenanceClient"
            ))?
            .ok()?;
        }
        let control = Control::start(
            cluster,
            "colby",
            &[("colby", 1), ("munster", 2)],
            Families::Found,
        )?;
        let server = cluster.node("colby")?;
        let list = typed(teller, server, &["dsictl", "node", "list"])?.ok()?;
        check!(
            list.stdout.contains("munster") && list.stdout.contains("colby"),
            "{}",
            list.describe()
        );
        teller.seen(
            "both nodes are members",
            "colby (SnID 1) and munster (SnID 2) are connected",
        );
        Ok(Self {
            teller,
            control,
            programs: Vec::new(),
            clients: Vec::new(),
        })
    }

    /// (a) No policy: PhoneMania is paid for the work of RingBell's back end.
    pub fn fraud_without_policy(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.teller
            .step("a", "The module is loaded, there is no policy");
        self.teller.explain(
            "PhoneMania's entry point on colby (port 8800) forwards its customers' requests to the back end
             of its competitor RingBell on munster (port 9001), instead of to its own.",
        );
        self.start_programs(cluster)?;
        let seen = self.fraud_works(cluster)?;
        self.teller.seen(
            "the fraud works: RingBell's back end answers PhoneMania's customer",
            &seen,
        );
        self.stop_programs()
    }

    /// (b) Labels and a permissive policy: the fraud still works, and the audit tells it.
    pub fn permissive_audits(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.teller.step(
            "b",
            "Labels on the binaries, and the article's rules in permissive mode",
        );
        self.teller.explain(
            "The binaries get their security context id (ScID): 10 for PhoneMania, 20 for RingBell. A shell has
             ScID 2; a transition rule says that it becomes 10 or 20 by starting one of them.",
        );
        for (files, scid) in [
            (&["PhoneManiaEP", "PhoneManiaBE"][..], PHONEMANIA),
            (&["RingBellEP", "RingBellBE"][..], RINGBELL),
            (&["MaintenanceClient"][..], MAINTENANCE),
        ] {
            for node in cluster.nodes() {
                let paths: Vec<String> =
                    files.iter().map(|file| format!("{HOME}/{file}")).collect();
                let number = scid.to_string();
                let mut argv = vec!["dsictl", "label", "set", "--scid", &number];
                argv.extend(paths.iter().map(String::as_str));
                typed(self.teller, node, &argv)?.ok()?;
            }
        }
        let munster = cluster.node("munster")?;
        let list = typed(self.teller, munster, &["dsictl", "label", "ls", HOME])?.ok()?;
        for (file, scid) in [("PhoneManiaEP", "10"), ("RingBellBE", "20")] {
            let line = line_with(&list, file);
            check!(
                line.split_whitespace().any(|word| word == scid),
                "{file} should bear ScID {scid}: {line}"
            );
        }

        let applied = self.apply(cluster, "two-operators-permissive.xml")?;
        self.start_programs(cluster)?;
        for node in cluster.nodes() {
            let ps = typed(self.teller, node, &["dsictl", "ps"])?.ok()?;
            for (program, scid) in [("PhoneMania", "10"), ("RingBell", "20")] {
                let line = line_with(&ps, program);
                check!(
                    line.split_whitespace().any(|word| word == scid),
                    "{program} should run with ScID {scid}: {}",
                    ps.describe()
                );
            }
        }
        let mark = munster.kernel_mark();
        let seen = self.fraud_works(cluster)?;
        let log = munster.wait_kernel_line(mark, "would-deny sscid=10 ssnid=1 tscid=20")?;
        self.teller.logged("munster's kernel", &log);
        let event = self.wait_event(cluster, false)?;
        self.teller.seen(
            "the fraud still works, and the audit says what would have been refused",
            &format!("{seen}; the audit has: {event}"),
        );
        drop(applied);
        Ok(())
    }

    /// (c) and (d): the same rules enforcing. The same running processes are refused; each operator's own
    /// traffic goes on without a lost request.
    pub fn enforcing_denies(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.teller.step("c", "The same rules, enforcing");
        self.teller.explain(
            "Each operator's own customers are served all the while, across the nodes: a client of RingBell on
             colby (back end on munster), and a client of PhoneMania on munster (back end on colby).",
        );
        self.start_clients(cluster)?;
        self.apply(cluster, "two-operators.xml")?;

        let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
        let mark = munster.kernel_mark();
        let client = typed(self.teller, colby, &self.client("colby", "8800"))?;
        check!(
            client.code == Some(1) && client.stderr.contains("no quotation"),
            "the fraud should be refused: {}",
            client.describe()
        );
        let log = munster.wait_kernel_line(mark, "denied sscid=10 ssnid=1 tscid=20 tsnid=2")?;
        self.teller.logged("munster's kernel", &log);
        for word in ["udp", ":9001", "reason=no-permission"] {
            check!(
                log.contains(word),
                "the kernel's line lacks '{word}': {log}"
            );
        }
        let event = self.wait_event(cluster, true)?;
        let tail = typed(
            self.teller,
            colby,
            &["dsictl", "audit", "tail", "--replay", "1", "--count", "1"],
        )?
        .ok()?;
        check!(!tail.stdout.trim().is_empty(), "{}", tail.describe());
        self.teller.seen(
            "the same fraud, by the same running processes, is refused on munster, by munster's kernel",
            &format!("the client got: {}; the audit has: {event}", client.stderr.trim()),
        );
        Ok(())
    }

    /// (d) Each operator's own traffic goes on, and maintenance reaches both.
    pub fn own_traffic_goes_on(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.teller
            .step("d", "Each operator's own service, and zone 30");
        let seen = self.clients_lost_nothing(cluster)?;
        let colby = cluster.node("colby")?;
        for (host, port) in [("munster", "8800"), ("munster", "9001"), ("colby", "9000")] {
            let output = typed(
                self.teller,
                colby,
                &self.maintenance(host, port, ALLOWED_MS),
            )?
            .ok()?;
            output.says("Quote Ericsson 83")?;
        }
        self.teller.seen(
            "no request of the operators' own customers was lost; maintenance (zone 30) reaches both",
            &format!("{seen}; maintenance got quotes of PhoneMania and of RingBell on both nodes"),
        );
        Ok(())
    }

    /// (e) A changed policy takes effect on both nodes while everything runs.
    pub fn change_takes_effect(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.teller
            .step("e", "A changed policy, while all of it runs");
        self.teller.explain(
            "The new policy takes RingBell away from maintenance, and changes nothing else.",
        );
        self.start_clients(cluster)?;
        self.apply(cluster, "two-operators-changed.xml")?;
        let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
        for (from, host, port, judge) in [
            (colby, "munster", "9001", munster),
            (munster, "colby", "9000", colby),
        ] {
            let mark = judge.kernel_mark();
            let output = typed(self.teller, from, &self.maintenance(host, port, DENIED_MS))?;
            check!(
                output.code == Some(1),
                "maintenance should be refused by {host}: {}",
                output.describe()
            );
            let log = judge.wait_kernel_line(mark, "denied sscid=30")?;
            self.teller
                .logged(&format!("{}'s kernel", judge.name), &log);
        }
        typed(
            self.teller,
            colby,
            &self.maintenance("munster", "8800", ALLOWED_MS),
        )?
        .ok()?
        .says("Quote Ericsson 83")?;
        let seen = self.clients_lost_nothing(cluster)?;
        self.teller.seen(
            "maintenance no longer reaches RingBell on either node, still reaches PhoneMania, and nobody lost a request",
            &format!("both kernels refused zone 30 at RingBell; {seen}"),
        );
        self.stop_programs()
    }

    fn client(&self, host: &'static str, port: &'static str) -> [&'static str; 7] {
        [
            "/srv/demo/TelecomClient",
            "-h",
            host,
            "-p",
            port,
            "--timeout-ms",
            ALLOWED_MS,
        ]
    }

    fn maintenance(
        &self,
        host: &'static str,
        port: &'static str,
        ms: &'static str,
    ) -> [&'static str; 7] {
        [
            "/srv/demo/MaintenanceClient",
            "-h",
            host,
            "-p",
            port,
            "--timeout-ms",
            ms,
        ]
    }

    fn apply(&self, cluster: &Cluster, policy: &str) -> Result<Output, Failure> {
        let file = format!("{GUEST_POLICIES}/{policy}");
        let output = self.control.apply(cluster, &file)?;
        self.teller
            .typed(cluster.node(&self.control.server)?, &output);
        Ok(output)
    }

    /// Starts back ends and entry points from a shell.
    fn start_programs(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        let starts: [(&str, &str, &str, &str); 6] = [
            ("munster", "RingBellBE", "-h munster -p 9001", "bind on"),
            ("munster", "PhoneManiaBE", "-h munster -p 8801", "bind on"),
            ("colby", "PhoneManiaBE", "-h colby -p 8801", "bind on"),
            (
                "colby",
                "RingBellEP",
                "-h colby -p 9000 -b munster -r 9001 --timeout-ms 120000",
                "connect on",
            ),
            (
                "munster",
                "PhoneManiaEP",
                "-h munster -p 8800 -b colby -r 8801 --timeout-ms 120000",
                "connect on",
            ),
            (
                "colby",
                "PhoneManiaEP",
                "-h colby -p 8800 -b munster -r 9001 --timeout-ms 30000",
                "connect on",
            ),
        ];
        for (node, program, args, ready) in starts {
            let node = cluster.node(node)?;
            let command = format!("{HOME}/{program} {args}");
            self.teller.started(node, &command);
            // From a shell, as a person would: its ScID is 2, and the rules on transitions apply.
            let process = node.spawn(program, &["bash", "-c", &format!("exec {command}")])?;
            process.wait_line(ready)?;
            self.programs.push(process);
        }
        Ok(())
    }

    fn stop_programs(&mut self) -> Result<(), Failure> {
        for program in self.programs.drain(..) {
            program.stop()?;
        }
        Ok(())
    }

    fn fraud_works(&self, cluster: &Cluster) -> Result<String, Failure> {
        let colby = cluster.node("colby")?;
        let client = typed(self.teller, colby, &self.client("colby", "8800"))?
            .ok()?
            .says("Quote Ericsson 83")?;
        let quote = line_with(&client, "Quote").to_owned();
        let log = self.programs[0].wait_line("quotation for Ericsson is")?;
        self.teller.logged("RingBellBE on munster", &log);
        Ok(format!(
            "the customer got '{quote}', made by RingBellBE on munster"
        ))
    }

    /// Customers of each operator, in the background, until they are told to end.
    fn start_clients(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        for (node, name, host, port) in [
            ("colby", "RingBell's customer", "colby", "9000"),
            ("munster", "PhoneMania's customer", "munster", "8800"),
        ] {
            let node = cluster.node(node)?;
            node.run(&["rm", "-f", "/tmp/enough"])?.ok()?;
            let command = format!(
                "{HOME}/TelecomClient -h {host} -p {port} --count 20 --until-file /tmp/enough --interval-ms 20 --timeout-ms 170000"
            );
            self.teller.started(node, &command);
            let client = node.spawn("customer", &["bash", "-c", &format!("exec {command}")])?;
            client.wait_line("Connecting to")?;
            self.clients.push((name.into(), client));
        }
        Ok(())
    }

    fn clients_lost_nothing(&mut self, cluster: &Cluster) -> Result<String, Failure> {
        for node in cluster.nodes() {
            node.run(&["touch", "/tmp/enough"])?.ok()?;
        }
        let mut seen = Vec::new();
        for (name, client) in self.clients.drain(..) {
            let line = client.wait_line("sent ")?;
            check!(line.ends_with("lost 0"), "{name} lost requests: {line}");
            check!(
                client.join()? == Some(0),
                "{name} failed: {}",
                client.output()?
            );
            self.teller.logged(&name, &line);
            seen.push(format!("{name}: {line}"));
        }
        Ok(seen.join("; "))
    }

    /// Follows the cluster's audit until it has the fraud, and returns that event in short.
    fn wait_event(&self, cluster: &Cluster, enforced: bool) -> Result<String, Failure> {
        let server = cluster.node(&self.control.server)?;
        let tail = server.spawn(
            "audit-tail",
            &["dsictl", "--json", "audit", "tail", "--replay", "500"],
        )?;
        let event = loop {
            let line = tail.wait_line("sscid")?;
            let event: Value = serde_json::from_str(&line)
                .map_err(|error| Failure::new(format!("not JSON: {error}: {line}")))?;
            if event["sscid"] == PHONEMANIA
                && event["tscid"] == RINGBELL
                && event["ssnid"] == 1
                && event["enforced"] == enforced
                && event["target_port"] == 9001
            {
                break event;
            }
        };
        tail.stop()?;
        Ok(format!(
            "{} sscid={} ssnid={} tscid={} node={} reason={}",
            if enforced { "denied" } else { "would deny" },
            event["sscid"],
            event["ssnid"],
            event["tscid"],
            event["node_name"],
            event["reason"]
        ))
    }
}
