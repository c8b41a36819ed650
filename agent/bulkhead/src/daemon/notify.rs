//! What the service manager is told, by the protocol of sd_notify(3): one datagram a message. Who is not started by one tells
//! nobody.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Where the service manager listens.
pub(super) const SOCKET: &str = "NOTIFY_SOCKET";
/// How often it wants a sign of life, in microseconds, and of which process; none: of whoever is told.
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHED: &str = "WATCHDOG_PID";

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Notify {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Interval>,
}

impl Notify {
    /// As the environment says. Must be called within a runtime.
    pub(super) fn from_environment() -> io::Result<Self> {
        let watched = env::var(WATCHED).ok();
        let watchdog = env::var(WATCHDOG).ok().and_then(|within| pace(&within, watched.as_deref()));
        Self::to(env::var_os(SOCKET).as_deref(), watchdog)
    }

    fn to(manager: Option<&OsStr>, watchdog: Option<Duration>) -> io::Result<Self> {
        let manager = match manager {
            Some(name) => Some((UnixDatagram::unbound()?, address(name)?)),
            None => None,
        };
        let watchdog = watchdog.map(|pace| {
            let mut beats = interval(pace);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        });
        Ok(Self { manager, watchdog })
    }

    /// The service is up, and does what `status` says.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// The service has begun to end.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Waits until it is time for a sign of life, and gives it; for ever where nobody wants one. Called by the loop that does the
    /// agent's work: if that hangs, the service manager starts the agent again.
    pub(super) async fn beat(&mut self) {
        match &mut self.watchdog {
            Some(beats) => beats.tick().await,
            None => return std::future::pending().await,
        };
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, message: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), manager) {
            tracing::warn!(%error, message, "the service manager cannot be told");
        }
    }
}

/// A path, or after an `@` a name in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{SOCKET} must be a path or begin with @, and is {}", name.display()),
        )),
    }
}

/// Half of what the service manager waits, if it waits for this process.
fn pace(within: &str, watched: Option<&str>) -> Option<Duration> {
    let mine = watched.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let within = within.parse().ok().filter(|within| *within > 1 && mine)?;
    Some(Duration::from_micros(within) / 2)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, path::Path};

    use super::*;

    fn received(manager: &UnixDatagram) -> String {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    fn expect_words(manager: &UnixDatagram, name: &OsStr) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut notify = Notify::to(Some(name), Some(Duration::from_millis(1))).unwrap();
            notify.ready("enforcing\n3 workloads");
            assert_eq!(received(manager), "READY=1\nSTATUS=enforcing 3 workloads");
            notify.beat().await;
            assert_eq!(received(manager), "WATCHDOG=1");
            notify.stopping();
            assert_eq!(received(manager), "STOPPING=1");
        });
    }

    #[test]
    fn a_manager_is_told_at_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        expect_words(&UnixDatagram::bind(&path).unwrap(), path.as_os_str());
    }

    #[test]
    fn a_manager_is_told_at_an_abstract_name() {
        let name = format!("bulkhead-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        expect_words(&UnixDatagram::bind_addr(&address).unwrap(), &OsString::from(format!("@{name}")));
    }

    #[test]
    fn an_address_of_another_kind_is_named() {
        let error = Notify::to(Some(OsStr::new("vsock:2:1234")), None).unwrap_err();
        assert!(error.to_string().contains("vsock:2:1234"), "{error}");
    }

    #[test]
    fn a_manager_that_has_gone_does_no_harm() {
        let nowhere = Path::new("/nowhere/notify");
        Notify::to(Some(nowhere.as_os_str()), None).unwrap().ready("enforcing");
    }

    #[test]
    fn a_sign_of_life_comes_twice_as_often_as_it_is_wanted_and_of_the_right_process() {
        let own = std::process::id().to_string();
        assert_eq!(pace("30000000", Some(&own)), Some(Duration::from_secs(15)));
        assert_eq!(pace("30000000", None), Some(Duration::from_secs(15)));
        assert_eq!(pace("30000000", Some("1")), None);
        assert_eq!(pace("0", None), None);
    }
}
