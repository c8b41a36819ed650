//! Network namespaces as /proc shows them: which one a process lives in, and which addresses are in it.
//!
//! Reading them there needs neither setns() nor a netlink socket in the namespace.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};

/// Name of the initial user namespace (`PROC_USER_INIT_INO` of linux/nsfs.h).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// A network namespace, as its link in /proc spells it: `net:[4026531840]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NetworkNamespace(String);

/// A process, held by its directory in /proc: it cannot become another one that takes over its number.
#[derive(Debug)]
pub(crate) struct Process(OwnedFd);

impl NetworkNamespace {
    /// Of the process that has this number now.
    pub(crate) fn of(pid: &str) -> io::Result<Self> {
        Ok(Self(spell(readlinkat(CWD, format!("/proc/{pid}/ns/net"), Vec::new())?)?))
    }
}

impl Process {
    pub(crate) fn open(pid: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?))
    }

    pub(crate) fn namespace(&self) -> io::Result<NetworkNamespace> {
        Ok(NetworkNamespace(self.link("ns/net")?))
    }

    /// Is it in the initial user namespace? Such a process is in no network namespace that an unprivileged user has
    /// made: to enter one it would have to be root (setns(2): `CAP_SYS_ADMIN` in its own user namespace, too).
    pub(crate) fn in_initial_user_namespace(&self) -> io::Result<bool> {
        Ok(self.link("ns/user")? == INITIAL_USER_NAMESPACE)
    }

    /// The addresses of its network namespace that others can reach it by.
    pub(crate) fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut found = ipv4_addresses(&self.read("net/fib_trie")?);
        match self.read("net/if_inet6") {
            Ok(table) => found.extend(ipv6_addresses(&table)),
            // No IPv6 in this kernel, or in this namespace.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    fn link(&self, name: &str) -> io::Result<String> {
        spell(readlinkat(&self.0, name, Vec::new())?)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let file = openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::read_to_string(std::fs::File::from(file))
    }
}

fn spell(link: CString) -> io::Result<String> {
    link.into_string().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Local addresses in /proc/net/fib_trie: a leaf `|-- 10.0.3.7` followed by `/32 host LOCAL`.
fn ipv4_addresses(fib_trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in fib_trie.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf.filter(|a| !a.is_loopback() && !a.is_link_local())
        {
            found.push(IpAddr::V4(address));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Addresses in /proc/net/if_inet6: `fd000000000000000000000000000002 02 40 00 80 eth0`, that is address, interface,
/// prefix length, scope and flags in hexadecimal digits.
fn ipv6_addresses(if_inet6: &str) -> Vec<IpAddr> {
    /// `IFA_F_DADFAILED` of linux/if_addr.h: another machine has this address.
    const DUPLICATE: u32 = 0x08;
    if_inet6
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let address = Ipv6Addr::from(u128::from_str_radix(fields.next()?, 16).ok()?);
            let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
            let usable = flags & DUPLICATE == 0 && !address.is_loopback() && !address.is_unicast_link_local();
            usable.then_some(IpAddr::V6(address))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.3.0/24 2 0 2
        |-- 10.0.3.0
           /24 link UNICAST
        |-- 10.0.3.7
           /32 host LOCAL
        |-- 10.0.3.255
           /32 link BROADCAST
Local:
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 169.254.7.1
           /32 host LOCAL
        |-- 10.0.3.7
           /32 host LOCAL
";

    #[test]
    fn ipv4_addresses_are_the_local_leaves_that_others_can_reach() {
        assert_eq!(ipv4_addresses(FIB_TRIE), [IpAddr::from([10, 0, 3, 7])]);
    }

    #[test]
    fn ipv6_addresses_leave_out_loopback_link_local_and_duplicates() {
        let table = "\
00000000000000000000000000000001 01 80 10 80       lo
fd000040000000000000000000000002 02 40 00 80     eth0
fd000040000000000000000000000003 02 40 00 88     eth0
fe80000000000000020000fffe000001 02 40 20 80     eth0
";
        assert_eq!(ipv6_addresses(table), ["fd00:40::2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn this_process_lives_in_a_namespace_with_readable_addresses() {
        let this = Process::open("self").unwrap();
        assert!(this.namespace().unwrap().0.starts_with("net:["));
        assert!(this.addresses().unwrap().iter().all(|a| !a.is_loopback()));
    }
}
