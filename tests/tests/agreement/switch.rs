//! Traffic while two generations are put in force in turn. Under either the same flows are allowed, and their tables
//! number the ends the other way round: a packet that was decided by tables of both would be refused where a rule allows
//! it, or pass where none does.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bulkhead_common::{
    Direction, Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, Protocol, RuleId, SubjectId,
};
use bulkhead_policy::WorkloadId;
use socket2::{Domain, Socket, Type};

use crate::kernel::{Kernel, Plain};

/// May call the server, and one other machine.
const CLIENT: WorkloadId = WorkloadId(0);
const SERVER: WorkloadId = WorkloadId(1);
/// May call nobody.
const INTRUDER: WorkloadId = WorkloadId(2);
const PORT: u16 = 443;
/// Another machine that the client may send to, and one that it may not.
const FRIEND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// How often the generation in force changes.
const SWITCHES: u32 = 100;
/// How long an allowed packet may take on loopback: less than TCP waits to repeat one that was lost (`TCP_RTO_MIN`).
const PATIENCE: Duration = Duration::from_millis(150);
const ISOLATED: u32 = Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS;
const EPERM: i32 = 1;

#[test]
fn no_packet_sees_a_mixture_of_two_generations() -> Result<()> {
    let mut kernel = Kernel::new()?;
    kernel.put_in_force(&generation(false, 0))?;
    let listener = kernel.socket(SERVER, Protocol::TCP, PORT)?;
    let inbox = kernel.socket(SERVER, Protocol::UDP, PORT)?;
    inbox.set_read_timeout(Some(PATIENCE))?;
    // Connected while nothing is refused: their packets alone are judged.
    let to_stranger = kernel.have(CLIENT, || connected(STRANGER))??;
    let to_server = kernel.have(INTRUDER, || connected(Ipv4Addr::LOCALHOST))??;
    kernel.put_in_force(&generation(false, ISOLATED))?;

    let stop = Arc::new(AtomicBool::new(false));
    let run = |who, flow| kernel.have(who, start(Arc::clone(&stop), flow));
    let far = kernel.have(CLIENT, || connected(FRIEND))??;
    let near = kernel.have(CLIENT, || connected(Ipv4Addr::LOCALHOST))??;
    let loose = kernel.have(CLIENT, datagrams)??;
    let allowed = [
        run(CLIENT, Box::new(move || passes(far.send(b"x"))))?,
        run(CLIENT, Box::new(move || passes(loose.send_to(b"x", &at(FRIEND).into()))))?,
        run(CLIENT, Box::new(move || arrives(&near, &inbox)))?,
        run(CLIENT, Box::new(move || converses(&listener)))?,
    ];
    let refused_packets = [
        run(CLIENT, Box::new(move || is_refused(to_stranger.send(b"y"))))?,
        run(INTRUDER, Box::new(move || is_refused(to_server.send(b"y"))))?,
    ];
    let loose = kernel.have(INTRUDER, datagrams)??;
    let refused_calls = [
        run(INTRUDER, Box::new(move || is_refused(loose.send_to(b"y", &at(Ipv4Addr::LOCALHOST).into()))))?,
        run(INTRUDER, Box::new(|| is_refused(stream()?.connect(&at(Ipv4Addr::LOCALHOST).into()))))?,
    ];
    let switched =
        (0..SWITCHES).try_for_each(|number| kernel.put_in_force(&generation(number % 2 == 0, ISOLATED)));
    stop.store(true, Ordering::Relaxed);
    let allowed = attempts("an allowed flow", allowed)?;
    let packets = attempts("a forbidden flow", refused_packets)?;
    let calls = attempts("a forbidden call", refused_calls)?;
    switched?;
    println!("{SWITCHES} switches, {allowed} packets and connections allowed, {packets} and {calls} refused");
    // TCP repeats what is lost: a packet that was refused wrongly shows here.
    let traffic = kernel.traffic()?;
    ensure!(traffic.denied.packets == packets, "{packets} packets are to be refused: {traffic:?}");
    ensure!(traffic.refused_calls == calls, "{calls} calls are to be refused: {traffic:?}");
    Ok(())
}

/// What a thread does again and again.
type Flow = Box<dyn FnMut() -> Result<()> + Send>;

/// A thread that lets a flow flow until it is to stop, or the flow fares otherwise than it should; tells how often it did.
fn start(stop: Arc<AtomicBool>, mut flow: Flow) -> impl FnOnce() -> JoinHandle<Result<u64>> + Send {
    // Its cgroup and network are those of whoever starts it.
    move || {
        thread::spawn(move || {
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) {
                flow().with_context(|| format!("after {times} times"))?;
                times += 1;
            }
            Ok(times)
        })
    }
}

/// How often flows have done what they do.
fn attempts<const N: usize>(what: &str, flows: [JoinHandle<Result<u64>>; N]) -> Result<u64> {
    let mut all = 0;
    for (number, flow) in flows.into_iter().enumerate() {
        let times = flow.join().map_err(|_| anyhow!("a flow panicked"))?;
        let times = times.with_context(|| format!("{what}, number {number}"))?;
        ensure!(times > 0, "{what}, number {number}, never began");
        all += times;
    }
    Ok(all)
}

/// The tables of a generation, with the numbers of allowed and forbidden ends swapped or not, and these flags for all
/// workloads.
fn generation(swapped: bool, flags: u32) -> Plain {
    let swap = |a: u32, b: u32| if swapped { (b, a) } else { (a, b) };
    let (client, intruder) = swap(1, 3);
    let (server, nobody) = swap(2, 4);
    let (friend, stranger) = swap(11, 12);
    let end = |who, number| (who, Endpoint { subject: SubjectId(number), peer: PeerId(number), flags });
    let machine = |address: Ipv4Addr, class| {
        let peer = PeerEntry { class: PeerId(class), ..PeerEntry::UNKNOWN };
        (IpAddr::from(address).into(), 128, peer)
    };
    let rule = |who, whom, direction, protocol| {
        let key = PolicyKey::new(SubjectId(who), PeerId(whom), direction, protocol, PORT);
        (PolicyKey::FULL, key, PolicyValue { rule: RuleId(0), flags: 0, expires: 0 })
    };
    let mut policy = vec![rule(client, friend, Direction::Egress, Protocol::UDP)];
    for protocol in [Protocol::TCP, Protocol::UDP] {
        policy.push(rule(client, server, Direction::Egress, protocol));
        policy.push(rule(server, client, Direction::Ingress, protocol));
        // Of a server that is nowhere, for whoever reads the other generation's numbers.
        policy.push(rule(nobody, intruder, Direction::Ingress, protocol));
    }
    Plain {
        endpoints: vec![end(CLIENT, client), end(SERVER, server), end(INTRUDER, intruder)],
        peers: vec![machine(FRIEND, friend), machine(STRANGER, stranger)],
        policy,
    }
}

fn at(address: Ipv4Addr) -> SocketAddr {
    SocketAddr::from((address, PORT))
}

fn datagrams() -> Result<Socket> {
    Ok(Socket::new(Domain::IPV4, Type::DGRAM, None)?)
}

fn connected(to: Ipv4Addr) -> Result<Socket> {
    let socket = datagrams()?;
    socket.connect(&at(to).into())?;
    Ok(socket)
}

fn stream() -> Result<Socket> {
    Ok(Socket::new(Domain::IPV4, Type::STREAM, None)?)
}

fn passes(sent: std::io::Result<usize>) -> Result<()> {
    sent.context("an allowed datagram was not taken")?;
    Ok(())
}

fn is_refused<T>(done: std::io::Result<T>) -> Result<()> {
    let error = done.err().and_then(|error| error.raw_os_error());
    ensure!(error == Some(EPERM), "not refused: error {error:?}");
    Ok(())
}

/// A datagram of the client's comes to the server, and nobody else's.
fn arrives(from: &Socket, mut inbox: &Socket) -> Result<()> {
    passes(from.send(b"x"))?;
    let mut bytes = [0; 8];
    let length = inbox.read(&mut bytes).context("an allowed datagram was lost")?;
    ensure!(bytes[..length] == *b"x", "the server has got {:?}", &bytes[..length]);
    Ok(())
}

/// A connection is opened and used both ways.
fn converses(listener: &Socket) -> Result<()> {
    let mut caller = stream()?;
    caller.set_read_timeout(Some(PATIENCE))?;
    caller.connect(&at(Ipv4Addr::LOCALHOST).into()).context("an allowed connection")?;
    let (mut accepted, _) = listener.accept()?;
    accepted.set_read_timeout(Some(PATIENCE))?;
    // No port is left in TIME_WAIT.
    caller.set_linger(Some(Duration::ZERO))?;
    let mut byte = [0];
    caller.write_all(b"x").context("a question")?;
    accepted.read_exact(&mut byte).context("an allowed question was lost")?;
    accepted.write_all(b"x").context("an answer")?;
    caller.read_exact(&mut byte).context("an allowed answer was lost")?;
    Ok(())
}
