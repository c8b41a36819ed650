//! The DNS resolvers that this machine asks.

use std::{collections::BTreeSet, fs, net::IpAddr};

/// Where they are named (resolv.conf(5)). The second is where systemd-resolved, itself the only resolver in the
/// first, names those that it asks (systemd-resolved.service(8)).
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The resolvers that this machine asks now.
pub(crate) fn resolvers() -> BTreeSet<IpAddr> {
    FILES.iter().flat_map(|file| resolvers_in(&fs::read_to_string(file).unwrap_or_default())).collect()
}

fn resolvers_in(resolv_conf: &str) -> Vec<IpAddr> {
    let nameservers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // A link-local resolver carries its interface: `fe80::1%eth0`.
    nameservers.filter_map(|address| address.split('%').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_the_nameserver_lines() {
        let file = "# nameserver 192.0.2.9\nsearch lan\nnameserver 192.0.2.1\n nameserver fe80::1%eth0\noptions edns0\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(resolvers_in(file), expected);
    }
}
