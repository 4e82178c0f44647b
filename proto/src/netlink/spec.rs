//! The numbers of the `dsi` generic netlink family, as `proto/netlink/dsi.yaml` gives them.
//!
//! Nothing here may be changed without the specification: a test reads it and compares every name and number.

use std::fmt;

/// Name under which the module registers its family.
pub const FAMILY: &str = "dsi";
/// Version of the family that this client speaks.
pub const FAMILY_VERSION: u8 = 1;
/// Multicast group on which refusals are published.
pub const GROUP_AUDIT: &str = "audit";

/// Declares an attribute set or the operations: constants, and for the test the table of their names.
macro_rules! numbers {
    ($(#[$meta:meta])* $module:ident: $type:ty { $($constant:ident = $number:literal $name:literal,)+ }) => {
        $(#[$meta])*
        pub(crate) mod $module {
            $(pub(crate) const $constant: $type = $number;)+
            #[cfg(test)]
            pub(crate) const TABLE: &[(&str, u64)] = &[$(($name, $number)),+];
        }
    };
}

/// Declares an enumeration of the specification; numbers that a newer module may send are kept as they are.
macro_rules! enumeration {
    ($(#[$meta:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$doc])* $variant,)+
            /// A value that this build does not know: the module is newer.
            Other(u32),
        }

        impl $type {
            #[cfg(test)]
            pub(crate) const TABLE: &'static [(&'static str, u64)] = &[$(($name, $number)),+];

            /// The value with this number.
            pub fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$variant,)+
                    other => Self::Other(other),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($name),)+
                    Self::Other(number) => write!(f, "unknown-{number}"),
                }
            }
        }
    };
}

enumeration! {
    /// What the module does with a refusal.
    Mode {
        /// No policy is installed and the node is not enrolled: everything passes.
        NoPolicy = 0 "no-policy",
        /// Refusals are only audited.
        Permissive = 1 "permissive",
        /// Refusals are enforced.
        Enforcing = 2 "enforcing",
        /// Enrolled, but without a policy: everything but management is refused.
        Closed = 3 "closed",
    }
}

enumeration! {
    /// Why a packet or an act was, or would have been, refused.
    Reason {
        /// There was no reason: it was allowed.
        None = 0 "none",
        /// No rule of the policy names the permission, and the policy's default is to deny.
        NoPermission = 1 "no-permission",
        /// A rule denies it.
        DeniedByRule = 2 "denied-by-rule",
        /// The packet carries no label.
        NoLabel = 3 "no-label",
        /// The label is malformed.
        BadLabel = 4 "bad-label",
        /// The label's authentication code is wrong.
        BadMac = 5 "bad-mac",
        /// The label names another node than the one that has the source address.
        WrongSource = 6 "wrong-source",
        /// An end of the packet has an address that is no node's by the node map, as behind NAT.
        UnknownNode = 7 "unknown-node",
        /// The label's key epoch is neither the current nor the previous one.
        UnknownEpoch = 8 "unknown-epoch",
        /// The sending node may not host the ScID for which it speaks.
        NotHosted = 9 "not-hosted",
        /// No transition from the parent's ScID to the binary's.
        NoTransition = 10 "no-transition",
        /// The kernel's own ScID on a packet that is more than a payload-less reset or acknowledgement.
        KernelLabel = 11 "kernel-label",
        /// The node is enrolled and has no policy yet.
        NoPolicy = 12 "no-policy",
        /// The kernel could not keep the state that a check needs.
        NoMemory = 13 "no-memory",
        /// A segment of a flow whose handshake was not seen.
        NotBound = 14 "not-bound",
        /// An exec that would change the ScID of a process that is traced, shares state, or has `no_new_privs`.
        UnsafeExec = 15 "unsafe-exec",
        /// A packet of a zone with a source route.
        SourceRoute = 16 "source-route",
    }
}

enumeration! {
    /// The kind of rule that the question was put to.
    Class {
        /// Socket permissions.
        Socket = 0 "socket",
        /// Network permissions.
        Network = 1 "network",
        /// Transitions at exec.
        Transition = 2 "transition",
        /// Process permissions.
        Process = 3 "process",
        /// System permissions.
        System = 4 "system",
    }
}

numbers! {
    /// Operations, requests and events alike (`enum-model: unified`).
    operation: u8 {
        STATUS_GET = 1 "status-get",
        CONFIG_SET = 2 "config-set",
        POLICY_BEGIN = 3 "policy-begin",
        POLICY_DATA = 4 "policy-data",
        POLICY_COMMIT = 5 "policy-commit",
        POLICY_ABORT = 6 "policy-abort",
        NODE_SET = 7 "node-set",
        NODE_DEL = 8 "node-del",
        NODE_GET = 9 "node-get",
        KEY_SET = 10 "key-set",
        TASK_GET = 11 "task-get",
        TASK_SET = 12 "task-set",
        DENIAL = 13 "denial",
        POLICY_CHANGED = 14 "policy-changed",
    }
}

numbers! {
    status: u16 {
        MODULE_VERSION = 1 "module-version",
        MODE = 2 "mode",
        POLICY_VERSION = 3 "policy-version",
        POLICY_EPOCH = 4 "policy-epoch",
        SNID = 5 "snid",
        CLUSTER = 6 "cluster",
        KEY_EPOCH = 7 "key-epoch",
        NODES = 8 "nodes",
        TASKS = 9 "tasks",
        SOCKETS = 10 "sockets",
        ANCHOR = 11 "anchor",
        HOOKS = 12 "hooks",
        COUNTER = 13 "counter",
        INSTANCE = 14 "instance",
    }
}

numbers! {
    counter: u16 {
        NAME = 1 "name",
        VALUE = 2 "value",
    }
}

numbers! {
    config: u16 {
        SNID = 1 "snid",
        CLUSTER = 2 "cluster",
        ANCHOR = 3 "anchor",
    }
}

numbers! {
    policy: u16 {
        SIZE = 1 "size",
        OFFSET = 2 "offset",
        DATA = 3 "data",
        SIGNATURE = 4 "signature",
        VERSION = 5 "version",
    }
}

numbers! {
    node: u16 {
        SNID = 1 "snid",
        ADDRESS = 2 "address",
        KEY_EPOCH = 3 "key-epoch",
        TX_KEY = 4 "tx-key",
    }
}

numbers! {
    key: u16 {
        EPOCH = 1 "epoch",
        SECRET = 2 "secret",
        ACTIVE = 3 "active",
    }
}

numbers! {
    task: u16 {
        PID = 1 "pid",
        SCID = 2 "scid",
    }
}

numbers! {
    event: u16 {
        ID = 1 "id",
        TIME_NS = 2 "time-ns",
        ENFORCED = 3 "enforced",
        REASON = 4 "reason",
        CLASS = 5 "class",
        PERMISSION = 6 "permission",
        SSCID = 7 "sscid",
        SSNID = 8 "ssnid",
        TSCID = 9 "tscid",
        TSNID = 10 "tsnid",
        PROTOCOL = 11 "protocol",
        SADDR = 12 "saddr",
        DADDR = 13 "daddr",
        SPORT = 14 "sport",
        DPORT = 15 "dport",
        PID = 16 "pid",
        COMM = 17 "comm",
        RULE = 18 "rule",
        POLICY_VERSION = 19 "policy-version",
        SUPPRESSED = 20 "suppressed",
        HOOK = 21 "hook",
        MODE = 22 "mode",
    }
}

/// The operation's name, for messages.
pub(crate) fn operation_name(number: u8) -> &'static str {
    const NAMES: [&str; 15] = [
        "?",
        "status-get",
        "config-set",
        "policy-begin",
        "policy-data",
        "policy-commit",
        "policy-abort",
        "node-set",
        "node-del",
        "node-get",
        "key-set",
        "task-get",
        "task-set",
        "denial",
        "policy-changed",
    ];
    NAMES.get(usize::from(number)).copied().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Spec {
        name: String,
        definitions: Vec<Definition>,
        #[serde(rename = "attribute-sets")]
        attribute_sets: Vec<AttributeSet>,
        operations: Operations,
        #[serde(rename = "mcast-groups")]
        groups: Groups,
    }

    #[derive(Deserialize)]
    struct Definition {
        name: String,
        entries: Vec<String>,
    }

    #[derive(Deserialize)]
    struct AttributeSet {
        name: String,
        attributes: Vec<Named>,
    }

    #[derive(Deserialize)]
    struct Operations {
        #[serde(rename = "enum-model")]
        model: String,
        list: Vec<Named>,
    }

    #[derive(Deserialize)]
    struct Groups {
        list: Vec<Named>,
    }

    #[derive(Deserialize)]
    struct Named {
        name: String,
        value: Option<u64>,
    }

    fn spec() -> Spec {
        serde_saphyr::from_str(include_str!("../../netlink/dsi.yaml"))
            .expect("dsi.yaml is a netlink specification")
    }

    /// Numbers a list as the specification language does: from `first`, an explicit value restarting the count.
    fn numbered(list: &[Named], first: u64) -> Vec<(&str, u64)> {
        let mut next = first;
        list.iter()
            .map(|entry| {
                let number = entry.value.unwrap_or(next);
                next = number + 1;
                (entry.name.as_str(), number)
            })
            .collect()
    }

    #[test]
    fn attributes_are_those_of_the_specification() {
        let ours: &[(&str, &[(&str, u64)])] = &[
            ("status", status::TABLE),
            ("counter", counter::TABLE),
            ("config", config::TABLE),
            ("policy", policy::TABLE),
            ("node", node::TABLE),
            ("key", key::TABLE),
            ("task", task::TABLE),
            ("event", event::TABLE),
        ];
        let spec = spec();
        let theirs: Vec<(&str, Vec<(&str, u64)>)> = spec
            .attribute_sets
            .iter()
            .map(|set| (set.name.as_str(), numbered(&set.attributes, 1)))
            .collect();
        assert_eq!(theirs.len(), ours.len(), "sets");
        for (name, table) in &theirs {
            let mine = ours
                .iter()
                .find(|(n, _)| n == name)
                .unwrap_or_else(|| panic!("no set {name} here"));
            assert_eq!(table.as_slice(), mine.1, "attribute set {name}");
        }
    }

    #[test]
    fn operations_are_those_of_the_specification() {
        let spec = spec();
        assert_eq!(spec.name, FAMILY);
        assert_eq!(spec.operations.model, "unified");
        let theirs = numbered(&spec.operations.list, 1);
        assert_eq!(theirs, operation::TABLE);
        for (name, number) in theirs {
            assert_eq!(operation_name(u8::try_from(number).unwrap()), name);
        }
        assert_eq!(
            spec.groups
                .list
                .iter()
                .map(|g| g.name.as_str())
                .collect::<Vec<_>>(),
            [GROUP_AUDIT]
        );
    }

    #[test]
    fn enumerations_are_those_of_the_specification() {
        let ours: &[(&str, &[(&str, u64)])] = &[
            ("mode", Mode::TABLE),
            ("reason", Reason::TABLE),
            ("class", Class::TABLE),
        ];
        let spec = spec();
        assert_eq!(spec.definitions.len(), ours.len(), "definitions");
        for definition in &spec.definitions {
            let theirs: Vec<(&str, u64)> = definition
                .entries
                .iter()
                .map(String::as_str)
                .zip(0..)
                .collect();
            let mine = ours
                .iter()
                .find(|(n, _)| *n == definition.name)
                .expect("enumeration");
            assert_eq!(theirs, mine.1, "enumeration {}", definition.name);
        }
    }

    #[test]
    fn a_value_of_a_newer_module_is_kept() {
        assert_eq!(Reason::from_number(5), Reason::BadMac);
        assert_eq!(Reason::from_number(99).to_string(), "unknown-99");
    }
}
