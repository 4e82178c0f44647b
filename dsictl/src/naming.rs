// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Names for the numbers in events: those that the policy of the event's version gives, and the cluster's nodes.

use std::collections::HashMap;

use dsi_proto::v1::{self, admin_client::AdminClient};
use dsp_schema::Names;
use tonic::transport::Channel;

use crate::failure::Failure;

/// Names by policy version, fetched when a version is first met.
pub struct Naming {
    client: AdminClient<Channel>,
    policies: HashMap<u64, Names>,
    nodes: HashMap<u32, String>,
}

impl Naming {
    /// The names of the cluster's nodes; those of policies follow when they are needed.
    pub async fn fetch(mut client: AdminClient<Channel>) -> Result<Self, Failure> {
        let nodes = client
            .list_nodes(v1::ListNodesRequest {})
            .await
            .map_err(Failure::server("listing the nodes"))?;
        let nodes = nodes
            .into_inner()
            .nodes
            .into_iter()
            .map(|node| (node.snid, node.name))
            .collect();
        Ok(Self {
            client,
            policies: HashMap::new(),
            nodes,
        })
    }

    /// The number of a node given by number or name.
    pub fn node_number(&self, text: &str) -> Option<u32> {
        let named = self
            .nodes
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(snid, _)| *snid);
        named.or_else(|| {
            text.parse()
                .ok()
                .filter(|snid| self.nodes.contains_key(snid))
        })
    }

    /// The name of a node.
    pub fn node(&self, snid: u32) -> Option<&str> {
        self.nodes.get(&snid).map(String::as_str)
    }

    /// The names that a policy gives; only the reserved ones if the server has it no more.
    pub async fn policy(&mut self, version: u64) -> &Names {
        if !self.policies.contains_key(&version) {
            let names = if version == 0 {
                Names::default()
            } else {
                self.fetch_policy(version).await
            };
            self.policies.insert(version, names);
        }
        &self.policies[&version]
    }

    async fn fetch_policy(&mut self, version: u64) -> Names {
        let answer = self
            .client
            .get_policy(v1::GetPolicyRequest { version })
            .await;
        let source = answer
            .ok()
            .and_then(|answer| answer.into_inner().policy)
            .map(|policy| policy.source);
        source
            .and_then(|source| dsp_schema::parse("policy", &source).ok())
            .map(|document| Names::of(&document))
            .unwrap_or_default()
    }
}
