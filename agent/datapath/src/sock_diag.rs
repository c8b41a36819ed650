//! The IP sockets of a network namespace, asked of the kernel over netlink (sock_diag(7)).

use std::{
    collections::HashMap,
    fs::File,
    io,
    mem::size_of,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
};

use bytemuck::{Pod, Zeroable};
use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// A socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// Id of the cgroup that owns it.
    pub(crate) cgroup: u64,
    /// Is it a TCP listener?
    pub(crate) listens: bool,
    /// Is it a TCP connection, in any state?
    pub(crate) connected: bool,
    /// IP protocol number.
    pub(crate) protocol: u8,
    pub(crate) local: SocketAddr,
    /// Unspecified where it has no peer.
    pub(crate) remote: SocketAddr,
    /// Its number among the files of processes; 0: no process holds it.
    pub(crate) inode: u32,
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (include/uapi/linux/inet_diag.h); ports, addresses and cookie are
/// left 0: every socket is asked for.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    socket: [u32; 12],
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x001 | 0x300;
const HEADER: usize = 16;
/// `sizeof(struct inet_diag_msg)`; attributes follow.
const MESSAGE: usize = 72;
/// `INET_DIAG_CGROUP_ID`.
const CGROUP_ID: u16 = 21;
pub(crate) const TCP: u8 = 6;
const TCP_LISTEN: u8 = 10;
const AF_INET: u8 = 2;
/// TCP, UDP, UDP-Lite.
const PROTOCOLS: [u8; 3] = [TCP, 17, 136];
/// And `AF_INET6`.
const FAMILIES: [u8; 2] = [AF_INET, 10];
/// The kernel fills at most 32 KiB for one recv (`netlink_dump`).
const BUFFER: usize = 64 * 1024;

/// Enters `namespace` with this thread and lists its sockets by cookie.
pub(crate) fn list(namespace: &File) -> io::Result<HashMap<u64, Socket>> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut found = HashMap::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let request = Request {
                length: u32::try_from(size_of::<Request>()).expect("a few bytes"),
                kind: SOCK_DIAG_BY_FAMILY,
                flags: DUMP,
                family,
                protocol,
                states: u32::MAX,
                ..Request::zeroed()
            };
            send(&kernel, bytemuck::bytes_of(&request), SendFlags::empty())?;
            receive(&kernel, protocol, &mut found)?;
        }
    }
    Ok(found)
}

/// Reads one dump to its end. A protocol without a diag module answers with an error, and has no sockets here.
fn receive(
    kernel: &impl std::os::fd::AsFd,
    protocol: u8,
    found: &mut HashMap<u64, Socket>,
) -> io::Result<()> {
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        let (length, _) = recv(kernel, buffer.as_mut_slice(), RecvFlags::empty())?;
        if !messages(&buffer[..length], protocol, found) {
            return Ok(());
        }
    }
}

/// Takes the sockets out of one datagram. False: the dump is over.
fn messages(mut datagram: &[u8], protocol: u8, found: &mut HashMap<u64, Socket>) -> bool {
    while let Some(header) = datagram.get(..HEADER) {
        let length = u32_at(header, 0) as usize;
        let kind = u16_at(header, 4);
        if matches!(kind, NLMSG_ERROR | NLMSG_DONE) || length < HEADER {
            return false;
        }
        let Some(body) = datagram.get(HEADER..length) else { return false };
        if let Some((cookie, socket)) = socket(body, protocol) {
            found.insert(cookie, socket);
        }
        datagram = datagram.get(align(length)..).unwrap_or_default();
    }
    true
}

/// One `struct inet_diag_msg` with its attributes.
fn socket(body: &[u8], protocol: u8) -> Option<(u64, Socket)> {
    let message = body.get(..MESSAGE)?;
    // family, state, timer, retrans, then id: sport, dport, src, dst, interface (44 bytes), cookie (8 bytes), expires, queues,
    // uid, inode.
    let listens = protocol == TCP && message[1] == TCP_LISTEN;
    let connected = protocol == TCP && !listens;
    let cookie = u64::from(u32_at(message, 44)) | u64::from(u32_at(message, 48)) << 32;
    let mut attributes = &body[MESSAGE..];
    while let Some(header) = attributes.get(..4) {
        let length = usize::from(u16_at(header, 0));
        let value = attributes.get(4..length)?;
        if u16_at(header, 2) == CGROUP_ID {
            let cgroup = u64::from_ne_bytes(value.get(..8)?.try_into().ok()?);
            let (local, remote) = (end(message, 4, 8), end(message, 6, 24));
            let inode = u32_at(message, 68);
            return Some((cookie, Socket { cgroup, listens, connected, protocol, local, remote, inode }));
        }
        attributes = attributes.get(align(length)..).unwrap_or_default();
    }
    None
}

/// One end of a socket: port and address lie there in network byte order.
fn end(message: &[u8], port: usize, address: usize) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&message[address..address + 16]);
    let [a, b, c, d, ..] = octets;
    let address =
        if message[0] == AF_INET { IpAddr::from([a, b, c, d]) } else { IpAddr::from(octets).to_canonical() };
    SocketAddr::new(address, u16::from_be_bytes([message[port], message[port + 1]]))
}

/// Messages and attributes begin at multiples of four bytes.
fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn own_namespace() -> HashMap<u64, Socket> {
        let namespace = File::open("/proc/self/ns/net").unwrap();
        std::thread::spawn(move || list(&namespace)).join().unwrap().expect("needs root")
    }

    #[test]
    fn the_kernel_lists_our_sockets_with_their_cgroup() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("[::1]:0").unwrap();
        let found = own_namespace();
        let known = |socket: &dyn Fn() -> u64| found.get(&socket()).copied().expect("listed");
        let bound = listener.local_addr().unwrap();
        let listener = known(&|| rustix::net::sockopt::socket_cookie(&listener).unwrap());
        assert_eq!((listener.local, listener.protocol), (bound, TCP));
        let datagrams = known(&|| rustix::net::sockopt::socket_cookie(&datagrams).unwrap());
        assert!(listener.listens && !listener.connected);
        assert!(!datagrams.listens && !datagrams.connected);
        assert!(listener.cgroup != 0 && listener.cgroup == datagrams.cgroup);
        assert!(listener.inode != 0 && listener.inode != datagrams.inode);
    }

    #[test]
    fn a_message_that_is_cut_short_is_no_socket() {
        let mut found = HashMap::new();
        assert!(messages(&[], TCP, &mut found));
        for length in 1..HEADER {
            assert!(messages(&vec![0; length], TCP, &mut found), "{length} bytes");
        }
        let mut datagram = vec![0_u8; HEADER + 8];
        datagram[..4].copy_from_slice(&(u32::try_from(HEADER + 8).unwrap()).to_ne_bytes());
        datagram[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert!(messages(&datagram, TCP, &mut found));
        datagram[0] = 200;
        assert!(!messages(&datagram, TCP, &mut found));
        assert!(found.is_empty());
    }
}
