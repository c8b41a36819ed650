//! A packet of a world as it looks on the wire.

use std::net::IpAddr;

use bulkhead_common::{Address, Direction, Protocol};
use bulkhead_worlds::Packet;
use proptest::{bool::weighted, option, prelude::*, sample::select, sample::subsequence};

/// Of what a policy does not speak.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// An IPv4 address in an IPv6 header, as IPv4-mapped.
    pub(crate) mapped: bool,
    /// Of IPv6, in the order of RFC 8200 section 4.1.
    pub(crate) extensions: Vec<Extension>,
    pub(crate) hop_limit: u8,
    /// The first of several fragments, in IPv4.
    pub(crate) more_fragments: bool,
    /// Bytes behind the transport header.
    pub(crate) payload: usize,
    pub(crate) damage: Option<Damage>,
    message: Option<Message>,
}

/// Extension headers that change no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    HopByHop,
    DestinationOnTheWay,
    /// With no segments left.
    Routing,
    /// The first of several, or the only one.
    Fragment,
    Authentication,
    Destination,
}

const EXTENSIONS: [Extension; 6] = [
    Extension::HopByHop,
    Extension::DestinationOnTheWay,
    Extension::Routing,
    Extension::Fragment,
    Extension::Authentication,
    Extension::Destination,
];

/// What makes a packet malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Not the first fragment.
    LaterFragment,
    /// IPv4 options, or an IPv6 routing header with segments left.
    Detour,
    /// The version of the other family.
    OtherVersion,
    /// It ends within the transport header.
    Short,
    /// Headers beyond all reason in IPv6; a header of 4 words in IPv4.
    Headers,
}

const DAMAGES: [Damage; 5] =
    [Damage::LaterFragment, Damage::Detour, Damage::OtherVersion, Damage::Short, Damage::Headers];

/// An ICMP message near those that IP does not work without, in place of the world's packet.
#[derive(Clone, Copy, Debug)]
struct Message {
    protocol: Protocol,
    kind: u8,
    code: u8,
    to: Option<&'static str>,
    hop_limit: u8,
}

fn message() -> impl Strategy<Value = Message> {
    let of_v4 = (Just(Protocol::ICMP), select(&[3_u8, 5, 11][..]), select(&[0_u8, 1, 4][..]));
    let of_v6 = (Just(Protocol::ICMPV6), select(&[1_u8, 2, 3, 132, 133, 135, 136, 137, 138][..]), Just(0));
    let to = select(
        &[Some("fe80::1"), Some("febf::1"), Some("ff02::1"), Some("ff05::1"), Some("fec0::1"), None][..],
    );
    (prop_oneof![1 => of_v4, 3 => of_v6], to, select(&[254_u8, 255][..])).prop_map(
        |((protocol, kind, code), to, hop_limit)| {
            let to = if protocol == Protocol::ICMP { None } else { to };
            Message { protocol, kind, code, to, hop_limit }
        },
    )
}

/// A look.
pub(crate) fn look() -> impl Strategy<Value = Look> {
    let ip = (weighted(0.2), subsequence(&EXTENSIONS[..], 0..=EXTENSIONS.len()), any::<u8>(), weighted(0.1));
    let more = (0..40_usize, option::weighted(0.08, select(&DAMAGES[..])), option::weighted(0.1, message()));
    (ip, more).prop_map(|((mapped, extensions, hop_limit, more_fragments), (payload, damage, message))| {
        Look { mapped, extensions, hop_limit, more_fragments, payload, damage, message }
    })
}

/// A packet to build and to ask about.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) packet: Packet,
    pub(crate) look: Look,
    address: IpAddr,
}

impl Case {
    /// Ports that are no service: of who opens a connection.
    const EPHEMERAL: u16 = 40_001;

    /// A packet with a look.
    pub(crate) fn new(packet: &Packet, look: &Look) -> Self {
        let (mut packet, mut look) = (*packet, look.clone());
        if let Some(message) = look.message {
            packet.protocol = message.protocol;
            packet.port = u16::from_be_bytes([message.kind, message.code]);
            packet.address = message.to.map_or(packet.address, |to| to.parse().ok());
            look.hop_limit = message.hop_limit;
        }
        // Only TCP and UDP tell on this host whose the socket at the other end is, and none has port 0. What is malformed tells
        // nothing.
        if !matches!(packet.protocol, Protocol::TCP | Protocol::UDP)
            || packet.port == 0
            || look.damage.is_some()
        {
            packet.socket = None;
        }
        let address = packet.address.unwrap_or(IpAddr::from([192, 0, 2, 77]));
        // A transport without a header that is read has none to be cut short.
        let headless = !packet.protocol.has_ports() && !packet.protocol.is_icmp();
        if headless && look.damage == Some(Damage::Short) {
            look.damage = None;
        }
        Self { packet, look, address }
    }

    /// A packet with nothing special about it.
    pub(crate) fn plain(packet: Packet) -> Self {
        let look = Look {
            mapped: false,
            extensions: vec![],
            hop_limit: 64,
            more_fragments: false,
            payload: 0,
            damage: None,
            message: None,
        };
        Self::new(&packet, &look)
    }

    /// Is it an IPv6 packet?
    pub(crate) fn is_v6(&self) -> bool {
        self.address.is_ipv6() || self.look.mapped
    }

    /// This end's address and port.
    pub(crate) fn own(&self) -> (Address, u16) {
        let address: IpAddr = if self.address.is_ipv4() {
            [192, 0, 2, 200].into()
        } else {
            [0xfd00, 0x99, 0, 0, 0, 0, 0, 1].into()
        };
        (address.into(), self.port_of(Direction::Ingress))
    }

    /// The other end's address and port.
    pub(crate) fn far(&self) -> (Address, u16) {
        (self.address.into(), self.port_of(Direction::Egress))
    }

    /// The port of the end that is the server of flows that are opened in `direction`.
    fn port_of(&self, direction: Direction) -> u16 {
        if self.packet.direction == direction { self.packet.port } else { Self::EPHEMERAL }
    }

    /// Can no verdict be found?
    pub(crate) fn is_malformed(&self) -> bool {
        self.look.damage.is_some()
    }

    /// docs/policy.md: IPv6 neighbour discovery and the ICMP errors that IP does not work without. The kernel's own:
    /// no process has made the packet's socket.
    pub(crate) fn is_essential(&self) -> bool {
        let [kind, code] = self.packet.port.to_be_bytes();
        let arrives = self.packet.direction == Direction::Ingress;
        let discovery = (133..=137).contains(&kind) && self.look.hop_limit == 255;
        match self.packet.protocol {
            Protocol::ICMP => arrives && (kind, code) == (3, 4),
            Protocol::ICMPV6 if discovery => arrives || is_on_link(self.address),
            Protocol::ICMPV6 => arrives && (kind, code) == (2, 0),
            _ => false,
        }
    }
}

/// fe80::/10 (RFC 4291 section 2.5.6) and multicast of link-local scope (section 2.7).
fn is_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || (ip.is_multicast() && ip.segments()[0] & 0xff == 2),
    }
}
