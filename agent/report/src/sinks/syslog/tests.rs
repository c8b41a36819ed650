use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    thread,
};

use super::*;
use crate::sinks::testing::denial;

fn batch(size: usize) -> Vec<Arc<Denial>> {
    (0..size).map(|_| Arc::new(denial())).collect()
}

#[test]
fn a_message_is_as_the_standard_has_it() {
    let message = message(&denial(), "gateway").replace(&format!(" {} ", std::process::id()), " PID ");
    insta::assert_snapshot!(message, @r#"<28>1 2026-11-21T20:15:03.123456Z gateway bulkhead PID denial [bulkhead@32473 count="3" direction="egress" generation="12" mode="enforce" nearest_rule.differs="from,ports" nearest_rule.file="shop.toml" nearest_rule.id="web-db" nearest_rule.line="31" peer.address="10.0.3.7" peer.environment="prod" peer.name="db" peer.port="5432" process.comm="cu\"r\]l\\n" process.exe="/usr/bin/curl" process.pid="4711" process.uid="1000" protocol="tcp" reason="no-rule" service="tcp/5432" suppressed="2" time="2026-11-21T20:15:03.123456Z" verdict="denied" workload.cgroup="/ci.slice/job-7.scope" workload.environment="dev" workload.name="ci" workload.unit="job-7.scope"] ﻿denied ci (dev) → db (prod) 10.0.3.7 tcp/5432: no rule allows it (3 times); cu"r]l\n[4711] uid 1000 /usr/bin/curl in /ci.slice/job-7.scope; nearest rule web-db (shop.toml:31) differs in from, ports"#);
}

#[test]
fn addresses_are_of_three_kinds_and_others_are_told_what_they_lack() {
    assert_eq!("/dev/log".parse(), Ok(Address::default()));
    assert_eq!("udp://192.0.2.1:514".parse(), Ok(Address::Udp("192.0.2.1:514".into())));
    assert_eq!("tcp://[2001:db8::1]:601".parse(), Ok(Address::Tcp("[2001:db8::1]:601".into())));
    for (text, error) in [
        ("192.0.2.1:514", AddressError::Unknown("192.0.2.1:514".into())),
        ("dev/log", AddressError::Unknown("dev/log".into())),
        ("tls://logs:6514", AddressError::Tls),
        ("udp://logs", AddressError::Incomplete("logs".into())),
        ("tcp://:601", AddressError::Incomplete(":601".into())),
        ("tcp://2001:db8::1:601", AddressError::Incomplete("2001:db8::1:601".into())),
    ] {
        assert_eq!(text.parse::<Address>(), Err(error), "{text}");
    }
}

#[test]
fn a_local_socket_gets_a_datagram_each_and_may_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut syslog = Syslog::at(Address::Local(path.clone()));
    assert_eq!(syslog.deliver(&batch(1)).unwrap_err().refused, 0, "nobody listens");
    for _ in 0..2 {
        let listener = UnixDatagram::bind(&path).unwrap();
        // Who was connected to the one before learns it from an error.
        while syslog.deliver(&batch(1)).is_err() {}
        let mut bytes = [0; 8192];
        let length = listener.recv(&mut bytes).unwrap();
        assert!(bytes[..length].starts_with(b"<28>1 "));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn by_udp_each_is_a_datagram_and_one_that_fits_in_none_is_given_up() {
    let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut syslog = Syslog::at(Address::Udp(listener.local_addr().unwrap().to_string()));
    let mut large = denial();
    large.workload.cgroup = Some("/long".repeat(20_000));
    let all = [Arc::new(denial()), Arc::new(large), Arc::new(denial())];
    let undelivered = syslog.deliver(&all).unwrap_err();
    assert_eq!((undelivered.delivered, undelivered.refused), (1, 1), "{}", undelivered.why);
    syslog.deliver(&all[2..]).unwrap();
    for _ in 0..2 {
        let mut bytes = [0; 8192];
        let length = listener.recv(&mut bytes).unwrap();
        assert!(bytes[..length].starts_with(b"<28>1 "));
    }
}

/// Reads messages as RFC 6587 frames them.
fn frames(stream: TcpStream, count: usize) -> Vec<String> {
    let mut stream = BufReader::new(stream);
    let frame = |_| {
        let mut length = Vec::new();
        stream.read_until(b' ', &mut length).unwrap();
        let length: usize = str::from_utf8(&length).unwrap().trim_end().parse().unwrap();
        let mut message = vec![0; length];
        stream.read_exact(&mut message).unwrap();
        String::from_utf8(message).unwrap()
    };
    (0..count).map(frame).collect()
}

#[test]
fn by_tcp_octets_are_counted_and_a_receiver_that_comes_back_is_found() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut syslog = Syslog::at(Address::Tcp(listener.local_addr().unwrap().to_string()));
    for _ in 0..2 {
        let sent = thread::spawn(move || {
            // The first connection has been closed by its receiver: that is noticed before anything is lost with it.
            while syslog.deliver(&batch(2)).is_err() {}
            syslog
        });
        let (stream, _) = listener.accept().unwrap();
        let messages = frames(stream, 2);
        assert!(messages.iter().all(|message| message.starts_with("<28>1 ") && message.ends_with("ports")));
        syslog = sent.join().unwrap();
    }
}
