//! Calls by io_uring(7), which the kernel may run on threads of its own.

use std::{
    env, io,
    net::{Ipv4Addr, SocketAddr},
    process::{self, ExitCode},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_tests::{
    Place,
    pace::stretched,
    probe::{Kind, PATIENCE},
    scene::PORT,
    verdicts::at,
};
use tokio_uring::net::{TcpStream, UdpSocket};

use crate::{Case, Skip, site::Site};

pub(crate) const CASES: &[Case] = &[("ring::calls_by_io_uring_are_calls", calls_by_io_uring)];

/// Names whom this very program shall try to reach when it runs as a client.
const TARGET: &str = "BULKHEAD_RING_TARGET";

const EPERM: i32 = 1;

/// What the client found.
const REACHED: u8 = 0;
const REFUSED: u8 = 10;
const SILENCE: u8 = 11;
const NO_RING: u8 = 12;

/// Runs as the client if this program was started as one.
pub(crate) fn client() -> Option<ExitCode> {
    let target = env::var(TARGET).ok()?;
    thread::spawn(|| {
        thread::sleep(stretched(PATIENCE));
        process::exit(SILENCE.into());
    });
    let Ok(target) = target.parse() else { return Some(ExitCode::FAILURE) };
    // A kernel without rings, or one that forbids them, makes it panic.
    let reached = std::panic::catch_unwind(|| tokio_uring::start(reach(target)));
    Some(match reached {
        Ok(Ok(())) => REACHED.into(),
        Ok(Err(error)) if error.raw_os_error() == Some(EPERM) => REFUSED.into(),
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_) => NO_RING.into(),
    })
}

/// Sends a datagram, then opens a connection, and wants its bytes echoed.
async fn reach(to: SocketAddr) -> io::Result<()> {
    let datagrams = UdpSocket::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)).await?;
    let by_datagram = datagrams.send_to(&b"by a ring"[..], to).await.0;
    let stream = TcpStream::connect(to).await;
    match (by_datagram, stream) {
        (Ok(_), Ok(stream)) => {
            stream.write_all(b"by a ring".to_vec()).await.0?;
            let read = stream.read(vec![0; 64]).await.0?;
            if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        }
        (Err(one), Err(two)) if one.raw_os_error() == two.raw_os_error() => Err(two),
        (one, two) => Err(io::Error::other(format!("datagram: {one:?}; connection: {:?}", two.err()))),
    }
}

fn calls_by_io_uring(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (near, far) = (lab.stranger(site.partner())?, lab.stranger(site.stranger())?);
    for (probe, network) in [(&near, site.partner()), (&far, site.stranger())] {
        probe.serve(Kind::Tcp, at(network.v4, PORT))?;
        probe.serve(Kind::Udp, at(network.v4, PORT))?;
    }
    let try_from = |cgroup: &str, to: SocketAddr| -> Result<u8> {
        let place = Place::new(lab.cgroup(cgroup)?, lab.host());
        let status = place.command(env::current_exe()?).env(TARGET, to.to_string()).status()?;
        match status.code().and_then(|code| u8::try_from(code).ok()).context("the client was killed")? {
            NO_RING => bail!(Skip("the kernel has no io_uring, or forbids it")),
            code => Ok(code),
        }
    };
    let (friend, stranger) = (at(site.partner().v4, PORT), at(site.stranger().v4, PORT));
    for (cgroup, to, expected) in [
        ("/other", stranger, REACHED),
        ("/app", friend, REACHED),
        ("/app", stranger, REFUSED),
        ("/ci", friend, REFUSED),
    ] {
        let found = try_from(cgroup, to)?;
        ensure!(found == expected, "from {cgroup} to {to}: {found} and not {expected}");
    }
    Ok(())
}
