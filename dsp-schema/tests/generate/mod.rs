// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Documents of the language, at random.

use dsp_schema::NAMESPACE;
use proptest::prelude::*;

/// Permissions by name, in the order of their bits.
fn list(element: &str, names: &[&str], bits: u16) -> String {
    let named: Vec<&str> = names
        .iter()
        .enumerate()
        .filter(|(n, _)| bits & 1 << n != 0)
        .map(|(_, name)| *name)
        .collect();
    if named.is_empty() {
        String::new()
    } else {
        format!("<{element}>{}</{element}>", named.join(" "))
    }
}

/// A rule as XML. Grants only even permissions and denies only odd ones, or the other way round, so that no two rules of
/// the same kind of document contradict each other.
pub fn rule(odd: bool) -> impl Strategy<Value = String> + Clone {
    const SOCKET: [&str; 8] = [
        "create",
        "bind",
        "connect",
        "listen",
        "accept",
        "send",
        "receive",
        "create_unmediated",
    ];
    const NETWORK: [&str; 4] = ["send", "receive", "connect", "multicast"];
    const PROCESS: [&str; 5] = ["signal", "trace", "unix_connect", "unix_send", "use_fd"];
    const SYSTEM: [&str; 8] = [
        "load_module",
        "bpf",
        "boot",
        "raw_io",
        "trace_kernel",
        "net_admin",
        "label",
        "sys_admin",
    ];
    const PLACES: [&str; 8] = [
        "<address>192.0.2.0/24</address>",
        "<address>192.0.2.7</address><port>53</port>",
        "<address>2001:db8::/32</address><port>1-99</port>",
        "<address>0.0.0.0/0</address>",
        "<port>443</port>",
        "<port>53</port>",
        "<address>192.0.2.7</address>",
        "<address>192.0.2.7</address><port>1-99</port>",
    ];
    const NAMES: [&str; 4] = ["2", "default", "10", "twenty"];
    let granted = move |bits: u16| bits & if odd { 0xAA } else { 0x55 };
    // Never neither: that would deny all.
    let denied = move |bits: u16| {
        let none = u16::from(granted(bits) == 0);
        if odd {
            bits & 0x55 | none
        } else {
            bits & 0xAA | none << 1
        }
    };
    let zone = || prop::sample::select(NAMES.to_vec());
    let end = || prop_oneof![4 => prop::sample::select(NAMES.to_vec()), 1 => Just("outside")];
    let node = || {
        prop_oneof![
            Just(None),
            Just(Some("1")),
            Just(Some("munster")),
            Just(Some("2"))
        ]
    };
    let optional = |element: &'static str, value: Option<&'static str>| {
        value.map_or(String::new(), |value| {
            format!("<{element}>{value}</{element}>")
        })
    };
    prop_oneof![
        (zone(), node(), zone(), 1_u16..256).prop_map(move |(source, node, target, bits)| format!(
            "<socket_permission><source_ScID>{source}</source_ScID>{}<target_ScID>{target}</target_ScID>{}{}\
             </socket_permission>",
            optional("source_SnID", node),
            list("grant", &SOCKET, granted(bits)),
            list("deny", &SOCKET, denied(bits)),
        )),
        (zone(), node(), zone(), 1_u16..32).prop_map(move |(source, node, target, bits)| format!(
            "<process_permission><source_ScID>{source}</source_ScID>{}<target_ScID>{target}</target_ScID>{}{}\
             </process_permission>",
            optional("source_SnID", node),
            list("grant", &PROCESS, granted(bits)),
            list("deny", &PROCESS, denied(bits)),
        )),
        (zone(), node(), 1_u16..256).prop_map(move |(source, node, bits)| format!(
            "<system_permission><source_ScID>{source}</source_ScID>{}{}{}</system_permission>",
            optional("source_SnID", node),
            list("grant", &SYSTEM, granted(bits)),
            list("deny", &SYSTEM, denied(bits)),
        )),
        (zone(), prop::sample::select(PLACES.to_vec()), any::<bool>(), 1_u16..16).prop_map(move |(zone, place, out, bits)| {
            let (source, target) = if out { (zone, "outside") } else { ("outside", zone) };
            format!(
                "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{place}{}{}\
                 </network_permission>",
                list("grant", &NETWORK, granted(bits)),
                list("deny", &NETWORK, denied(bits)),
            )
        }),
        (end(), node(), end(), node(), 1_u16..16).prop_map(move |(source, from, target, to, bits)| format!(
            "<network_permission>{}<source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{}{}{}\
             </network_permission>",
            optional("source_SnID", from.filter(|_| source != "outside")),
            optional("target_SnID", to.filter(|_| target != "outside")),
            list("grant", &NETWORK, granted(bits)),
            list("deny", &NETWORK, denied(bits)),
        )),
        (zone(), zone()).prop_map(move |(parent, binary)| format!(
            "<transition><parent_ScID>{parent}</parent_ScID><binary_ScID>{binary}</binary_ScID><new_ScID>{}</new_ScID>\
             </transition>",
            if odd { "10" } else { binary }
        )),
        (zone(), prop::sample::select(vec!["1", "munster", "9"]))
            .prop_map(|(scid, node)| format!("<hosting><SnID>{node}</SnID><ScID>{scid}</ScID></hosting>")),
        (1_u16.., 1_u16..).prop_map(move |(a, b)| format!(
            "<socket_label><protocol>udp</protocol><port>{}-{}</port><new_ScID>{}</new_ScID></socket_label>",
            a.min(b),
            a.max(b),
            if odd { 20 } else { 10 }
        )),
    ]
}

/// A document of rules.
pub fn document(rules: &[String]) -> String {
    format!(
        "<DSP xmlns=\"{NAMESPACE}\" mode=\"enforcing\">\n<contexts><context ScID=\"10\" name=\"ten\"/>\
         <context ScID=\"20\" name=\"twenty\"/></contexts>\n<nodes><node SnID=\"1\" name=\"munster\"/></nodes>\n\
         <rules>\n{}\n</rules>\n</DSP>\n",
        rules.join("\n")
    )
}
