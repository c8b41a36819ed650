use std::{fmt::Write as _, net::Ipv4Addr};

use bulkhead_report::{Denial, Flow, FlowEnd, FlowKind, FlowPeer, NearestRule, Process, Rule};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
    test_runner::Config,
};

use super::*;

const DENIAL: &str = r#"{"time":"2026-11-21T20:15:03.123456Z","verdict":"denied","mode":"enforce","direction":"egress",
    "protocol":"tcp","workload":{"name":"ci","environment":"dev","cgroup":"/ci.slice","unit":null},
    "process":null,"peer":{"address":"10.0.3.7","port":5432,"name":"db","environment":"prod"},
    "rule":null,"reason":"no-rule","nearest_rule":null,"count":3,"suppressed":2,"generation":12}"#;

/// What damages a line.
const PIECES: [&str; 11] = ["", "\"", "\\u0041", " ", ",", "0", "-1.5e3", "null", "é", "{}", "\u{0}"];

/// A denial of the agent, with whatever may differ between two of them.
fn denial() -> impl Strategy<Value = Denial> {
    let rule = || ("[a-z0-9-]{1,12}", "[ !#-\\[\\]-~]{1,20}", any::<u32>());
    let rule = move || rule().prop_map(|(id, file, line)| Rule { id, file, line });
    let differs = vec(prop_oneof![Just("from"), Just("to"), Just("ports"), Just("expires")], 1..4);
    // Mostly what the agent's own form can hold.
    let text = || prop_oneof![9 => "[ !#-\\[\\]-~]{0,40}", 1 => ".{0,40}"];
    let process = (any::<u32>(), text(), option::of(text()), any::<u32>());
    let facts = (option::of("[a-z]{1,20}"), option::of(text()), option::of(text()), option::of(text()));
    let peer = (any::<u32>(), option::of(any::<u16>()), option::of(text()), option::of("[a-z]{1,9}"));
    let number = || prop_oneof![any::<u64>(), 0..100_000_u64];
    let numbers = (number(), number(), any::<u32>(), any::<u16>());
    let rules = (option::of(rule()), option::of((rule(), differs)));
    (facts, option::of(process), peer, rules, numbers).prop_map(
        |(workload, process, peer, rules, numbers)| {
            let (count, suppressed, generation, port) = numbers;
            Denial {
                time: jiff::Timestamp::UNIX_EPOCH,
                verdict: "would-deny",
                mode: "audit",
                direction: "ingress",
                protocol: "udp".into(),
                workload: bulkhead_report::Workload {
                    name: workload.0,
                    environment: workload.1,
                    cgroup: workload.2,
                    unit: workload.3,
                },
                process: process.map(|(pid, comm, exe, uid)| Process { pid, comm, exe, uid }),
                peer: bulkhead_report::Peer {
                    address: Some(Ipv4Addr::from_bits(peer.0).into()),
                    port: peer.1,
                    name: peer.2,
                    environment: peer.3,
                },
                rule: rules.0,
                reason: "no-rule",
                nearest_rule: rules.1.map(|(rule, differs)| NearestRule { rule, differs }),
                count,
                suppressed,
                generation,
                service: format!("udp/{port}"),
            }
        },
    )
}

/// A flow of the agent, with whatever may differ between two of them.
fn flow() -> impl Strategy<Value = Flow> {
    let text = || prop_oneof![9 => "[ !#-\\[\\]-~]{0,40}", 1 => ".{0,40}"];
    let name = || option::of(text());
    let rule = ("[a-z0-9-]{1,12}", text(), any::<u32>()).prop_map(|(id, file, line)| Rule { id, file, line });
    let like = option::of(prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ]);
    let end = || prop_oneof![2 => text(), 1 => Just("dns".to_owned()), 1 => Just("host".to_owned())];
    let peer = (name(), name(), option::of(vec(end(), 0..4)), like);
    let words = (select(&["allowed", "denied", "would-deny"][..]), select(&["egress", "ingress"][..]));
    let service = prop_oneof![
        any::<u16>().prop_map(|port| ("tcp".to_owned(), format!("tcp/{port}"))),
        any::<u16>().prop_map(|port| ("udp".to_owned(), format!("udp/{port}"))),
        any::<(u8, u8)>().prop_map(|(kind, code)| ("icmp".to_owned(), format!("icmp/{kind}.{code}"))),
        Just(("47".to_owned(), "47".to_owned())),
    ];
    let number = || prop_oneof![any::<u64>(), 0..100_000_u64];
    let cause = (option::of(rule), select(&["rule", "essential", "forged-source"][..]));
    let kind = (words, service, (name(), name()), peer, cause, any::<u32>());
    let kind = kind.prop_map(|(words, service, workload, peer, (rule, reason), generation)| FlowKind {
        verdict: words.0,
        direction: words.1,
        protocol: service.0,
        service: service.1,
        workload: FlowEnd { name: workload.0, environment: workload.1 },
        peer: FlowPeer { name: peer.0, environment: peer.1, is: peer.2, like: peer.3, ..FlowPeer::default() },
        rule,
        reason,
        generation,
    });
    (kind, number(), number(), number()).prop_map(|(kind, count, packets, bytes)| Flow {
        time: jiff::Timestamp::UNIX_EPOCH,
        since: jiff::Timestamp::UNIX_EPOCH,
        kind,
        count,
        calls: count,
        packets,
        bytes,
        connections: count,
        first_seen: jiff::Timestamp::UNIX_EPOCH,
        last_seen: jiff::Timestamp::UNIX_EPOCH,
    })
}

/// Of a line that nothing came before.
fn parse(line: &[u8]) -> Result<Option<FlowRecord<'_>>, RecordError> {
    let read = FlowRecord::parse(line, &mut Passages::<()>::default())?;
    Ok(read.map(|(record, _)| record))
}

proptest! {
    #![proptest_config(Config { cases: 2_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_denial_is_read_as_it_was_written(denial in denial()) {
        let line = denial.to_json();
        let record = parse(line.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(record.workload.as_deref(), denial.workload.name.as_deref().map(str::as_bytes));
        prop_assert_eq!(record.peer_name.as_deref(), denial.peer.name.as_deref().map(str::as_bytes));
        prop_assert_eq!((record.peer_address, record.count), (denial.peer.address.map(Into::into), denial.count));
        prop_assert_eq!(format!("udp/{}", record.port), denial.service);
    }

    #[test]
    fn a_flow_is_read_as_it_was_written(flow in flow()) {
        let line = flow.to_json();
        let record = parse(line.as_bytes()).unwrap();
        prop_assert_eq!(record.is_none(), flow.kind.peer.is.is_none() && flow.kind.peer.like.is_none());
        let Some(record) = record else { return Ok(()) };
        let FlowPeer { name, like, is, .. } = flow.kind.peer;
        let named = |end: &str| is.iter().flatten().any(|other| other == end);
        let expected = Is { of_address: like.is_some(), dns: named("dns"), host: named("host") };
        prop_assert_eq!(record.peer_is, expected);
        prop_assert_eq!(record.unjudged.map(Reason::name), Some(flow.kind.reason).filter(|reason| *reason != "rule"));
        let is_told = like.is_some() || name.is_some();
        let workload = flow.kind.workload.name.filter(|_| is_told);
        prop_assert_eq!(record.workload.as_deref(), workload.as_deref().map(str::as_bytes));
        prop_assert_eq!(record.peer_name.as_deref(), name.as_deref().map(str::as_bytes));
        prop_assert_eq!(record.peer_address, like.map(Into::into));
        prop_assert_eq!(Some(record.port), port(&flow.kind.service));
        prop_assert_eq!((record.count, Some(record.protocol)), (flow.count, protocol(&flow.kind.protocol)));
    }

    /// Passages are remembered from line to line: of records that differ little, and of lines that are none.
    #[test]
    fn records_and_damaged_ones_are_read_the_same_both_ways(
        records in vec(prop_oneof![denial().prop_map(|d| d.to_json()), flow().prop_map(|f| f.to_json())], 1..4),
        lines in vec((any::<Index>(), vec((any::<Index>(), any::<Index>(), select(&PIECES[..])), 0..3)), 1..8),
    ) {
        let mut passages = Passages::<()>::default();
        for (record, edits) in lines {
            let mut line = record.get(&records).clone().into_bytes();
            for (at, length, piece) in edits {
                let start = at.index(line.len() + 1);
                let end = (start + length.index(4)).min(line.len());
                line.splice(start..end, piece.bytes());
            }
            let found = passages.read(&line).map(|(record, _)| record);
            let anew = Passages::<()>::default().read(&line).map(|(record, _)| record);
            prop_assert_eq!(&found, &anew, "as if nothing came before");
            if let Some(record) = found {
                prop_assert_eq!(Ok(Some(record)), FlowRecord::parse_any(&line));
            }
        }
    }
}

/// Were the agent to write another form, records would be read more slowly and nobody would notice.
#[test]
fn the_agents_form_is_known() {
    let denial = Denial {
        time: jiff::Timestamp::UNIX_EPOCH,
        verdict: "denied",
        mode: "enforce",
        direction: "egress",
        protocol: "tcp".into(),
        workload: bulkhead_report::Workload {
            name: Some("ci".into()),
            environment: None,
            cgroup: None,
            unit: None,
        },
        process: Some(Process { pid: 1, comm: "curl".into(), exe: Some("/usr/bin/curl".into()), uid: 0 }),
        peer: bulkhead_report::Peer {
            address: Some([192, 0, 2, 1].into()),
            port: Some(443),
            name: None,
            environment: None,
        },
        rule: None,
        reason: "no-rule",
        nearest_rule: None,
        count: 1,
        suppressed: 0,
        generation: 1,
        service: "tcp/443".into(),
    };
    let rule = || Rule { id: "web-db".into(), file: "shop.toml".into(), line: 31 };
    let nearest = Some(NearestRule { rule: rule(), differs: vec!["from", "ports"] });
    let without_process = Denial { process: None, nearest_rule: nearest, ..denial.clone() };
    let expired = Denial { rule: Some(rule()), reason: "expired", ..denial.clone() };
    for denial in [denial, without_process, expired] {
        let line = denial.to_json();
        assert!(Passages::<()>::default().read(line.as_bytes()).is_some(), "{line}");
    }
}

#[test]
fn the_form_of_flows_is_known() {
    let flow = Flow {
        time: jiff::Timestamp::UNIX_EPOCH,
        since: jiff::Timestamp::UNIX_EPOCH,
        kind: FlowKind {
            verdict: "allowed",
            direction: "egress",
            protocol: "tcp".into(),
            service: "tcp/443".into(),
            workload: FlowEnd { name: Some("ci".into()), environment: None },
            peer: FlowPeer { is: Some(Vec::new()), ..FlowPeer::default() },
            rule: None,
            reason: "rule",
            generation: 1,
        },
        count: 1,
        calls: 0,
        packets: 3,
        bytes: 180,
        connections: 1,
        first_seen: jiff::Timestamp::UNIX_EPOCH,
        last_seen: jiff::Timestamp::UNIX_EPOCH,
    };
    let mut ruled = flow.clone();
    ruled.kind.rule = Some(Rule { id: "web-db".into(), file: "shop.toml".into(), line: 31 });
    ruled.kind.peer.is = Some(vec!["env:prod".into(), "10.0.0.0/8".into()]);
    ruled.kind.peer.like = Some([10, 0, 0, 0].into());
    for flow in [flow, ruled] {
        let line = flow.to_json();
        assert!(Passages::<()>::default().read(line.as_bytes()).is_some(), "{line}");
    }
}

#[test]
fn a_record_may_be_laid_out_and_ordered_in_any_way() {
    let record = parse(DENIAL.as_bytes()).unwrap().unwrap();
    assert_eq!((record.protocol, record.port, record.count), (Protocol::TCP, 5432, 3));
    assert_eq!(
        (record.workload.as_deref(), record.peer_name.as_deref()),
        (Some(&b"ci"[..]), Some(&b"db"[..]))
    );
    assert_eq!(record.verdict, Verdict::Denied);
    let shuffled = r#" {"peer" : {"name":"d\u0062","more":[{"x":1.5e3}],"address":"10.0.3.7","port":5432},"count":3,
        "direction":"egress","workload":{"name":"ci"},"time":"2026-11-21T20:15:03.123456Z","protocol":"tcp",
        "verdict":"denied" } "#;
    assert_eq!(parse(shuffled.as_bytes()), Ok(Some(record)));
}

#[test]
fn a_refused_socket_is_no_flow() {
    for (protocol, service) in [("icmp", "icmp"), ("packet", "packet")] {
        let socket = DENIAL
            .replace("\"tcp\"", &format!("\"{protocol}\""))
            .replace("tcp/5432", service)
            .replace("\"10.0.3.7\"", "null");
        assert_eq!(parse(socket.as_bytes()), Ok(None), "{socket}");
    }
}

/// A flow has no address at the other end, but a name, or an address that stands for many.
#[test]
fn a_flow_is_a_record() {
    let flow = |peer: &str| {
        DENIAL.replace(
            r#""address":"10.0.3.7","port":5432,"name":"db","environment":"prod""#,
            &format!("\"address\":null,{peer}"),
        )
    };
    let parse = |line: &str| {
        let record = parse(line.as_bytes()).unwrap().unwrap();
        let text = |name: Option<Cow<'_, [u8]>>| name.map(|name| String::from_utf8(name.into()).unwrap());
        (
            text(record.workload),
            text(record.peer_name),
            record.peer_address.map(|ip| IpAddr::from(ip).to_string()),
        )
    };
    let ci = || Some("ci".to_owned());
    let nas = flow(r#""name":"nas","is":["nas"],"like":"10.1.0.0""#);
    assert_eq!(parse(&nas), (ci(), Some("nas".into()), Some("10.1.0.0".into())));
    let db = flow(r#""name":"db","is":["db"],"like":null"#);
    assert_eq!(parse(&db), (ci(), Some("db".into()), None));
    let everybody_else = flow(r#""name":null,"is":[],"like":null"#);
    assert_eq!(parse(&everybody_else), (None, None, None));
}

#[test]
fn services_are_read_as_they_are_written() {
    assert_eq!(port("tcp/443"), Some(443));
    assert_eq!(port("icmp/8"), Some(0x800));
    assert_eq!(port("icmpv6/1.4"), Some(0x104));
    assert_eq!(port("gre"), Some(0));
    assert_eq!(port("tcp/x"), None);
    assert_eq!(protocol("sctp"), Some(Protocol::SCTP));
    assert_eq!(protocol("gre"), Some(Protocol(47)));
    assert_eq!(protocol("97"), Some(Protocol(97)));
    assert_eq!(protocol("quic"), None);
}

#[track_caller]
fn complaint(line: impl AsRef<[u8]>) -> String {
    let error = parse(line.as_ref()).unwrap_err();
    let mut said = error.to_string();
    if let Some(column) = error.column() {
        let _ = write!(said, " (column {column})");
    }
    said
}

#[test]
fn what_is_no_record_is_told_with_its_column_and_what_it_should_be() {
    assert_eq!(complaint(""), "EOF while parsing a value (column 0)");
    assert_eq!(complaint("{}"), "missing field `time` (column 2)");
    assert_eq!(complaint("{\"time\":1}"), "invalid type: integer `1`, expected a string (column 9)");
    assert_eq!(complaint(b"{\"time\":\"\xff\"}"), "not text: records are JSON in UTF-8 (column 10)");
    // A field that is not asked about must be text, too.
    assert_eq!(
        complaint([&b"{\"x\":\"\xc3\","[..], &DENIAL.as_bytes()[1..]].concat()).split(':').next(),
        Some("not text")
    );
    for (from, to, expected) in [
        (
            "\"denied\"",
            "\"deny\"",
            "`verdict` is \"deny\", and should be `allowed`, `denied` or `would-deny`",
        ),
        ("egress", "out", "`direction` is \"out\", and should be `egress` or `ingress`"),
        ("egress", "o'u\\u007f", "`direction` is \"o'u\\u{7f}\", and should be `egress` or `ingress`"),
        ("10.0.3.7", "db", "`peer.address` is \"db\", and should be an IP address"),
        (
            r#""direction":"egress","#,
            r#""direction":"ingress","#,
            "`service` is missing: the peer's port is not the one that it came to",
        ),
        ("tcp", "quic", "`protocol` is \"quic\", and should be a name such as `tcp`, or a protocol's number"),
    ] {
        assert_eq!(complaint(DENIAL.replace(from, to)), expected);
    }
}

#[test]
fn a_complaint_is_short_whatever_the_line_holds() {
    for letter in ["x", "\u{7f}", "\u{10ffff}", "ä", "'"] {
        let long = letter.repeat(1 << 16);
        for line in [
            DENIAL.replace("egress", &long),
            format!("{{\"time\":[\"{long}\"]}}"),
            format!("{{\"{long}\":1}}"),
        ] {
            assert!(complaint(line).len() < 400, "{letter:?}");
        }
    }
}
