//! As much traffic as one process makes, and how long it takes.

use std::{
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use socket2::{Protocol, SockAddr, Socket, Type};

/// So many datagrams fit into any receive buffer.
const AT_ONCE: u32 = 64;
/// What a datagram carries: little, so that its way counts, and not its bytes.
const BYTES: [u8; 64] = [0x5a; 64];

/// Sends datagrams from one socket to the other; only the sending counts.
pub(crate) fn burst(from: &Socket, to: &Socket, times: u32) -> io::Result<Duration> {
    let mut took = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let now = left.min(AT_ONCE);
        let start = Instant::now();
        for _ in 0..now {
            from.send(&BYTES)?;
        }
        took += start.elapsed();
        for _ in 0..now {
            io::Read::read(&mut &*to, &mut [0; BYTES.len()])?;
        }
        left -= now;
    }
    Ok(took)
}

/// Opens connections to a listener one after the other from a port (0: from any), and closes both ends of each: the
/// accepted one first, which is left in `TIME_WAIT`.
pub(crate) fn churn(listener: &Socket, from: u16, times: u32) -> io::Result<Duration> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let to: SockAddr = listener.local_addr()?;
    let own = to.as_socket().map(|address| SocketAddr::new(address.ip(), from));
    let start = Instant::now();
    for _ in 0..times {
        let caller = Socket::new(listener.domain()?, Type::STREAM, Some(Protocol::TCP))?;
        if let Some(own) = own.filter(|_| from != 0) {
            caller.set_reuse_address(true)?;
            caller.bind(&own.into())?;
        }
        // connect() gives up after as long as a send may take (socket(7), SO_SNDTIMEO).
        caller.set_write_timeout(Some(PATIENCE))?;
        connect(&caller, &to, PATIENCE)?;
        drop(listener.accept()?);
        if from != 0 {
            // Who closes before it has heard that the other end has is in TIME_WAIT, too, and its port not free.
            let end = io::Read::read(&mut &caller, &mut [0])?;
            debug_assert_eq!(end, 0, "nobody sends anything");
        }
        drop(caller);
    }
    Ok(start.elapsed())
}

/// Connects as soon as the pair of ports is free: the connection before has ended once its last acknowledgement has come,
/// for which nobody waits who closes.
fn connect(caller: &Socket, to: &SockAddr, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match caller.connect(to) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}
