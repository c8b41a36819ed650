//! The systemd journal, with a field for each fact.
//!
//! Its protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram an entry; what does not fit into one goes as
//! a sealed file without a name.

use std::{
    io::{self, IoSlice, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr},
};

use super::{
    fields::{flat, text},
    worker::{Deliver, Undelivered},
};
use crate::{Denial, human};

/// How long a full journal is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tells denials from whatever else the journal holds.
const MESSAGE_ID: &str = "c2a1ea5d1cf84a6bb9a74b1e3b1d0f5e";

/// The journal's socket.
pub(super) struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Journal {
    /// Where the journal listens; each entry looks for it anew, so that it may come and go.
    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { path, socket })
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        match self.socket.send_to(entry, &self.path) {
            Err(error) if too_large(&error) => self.send_as_file(entry),
            sent => sent.map(drop),
        }
    }

    fn send_as_file(&self, entry: &[u8]) -> io::Result<()> {
        let file = memfd_create("bulkhead", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = std::fs::File::from(file);
        file.write_all(entry)?;
        let file = OwnedFd::from(file);
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&files));
        let to = SocketAddrUnix::new(&self.path)?;
        sendmsg_addr(&self.socket, &to, &[IoSlice::new(&[])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn too_large(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MSGSIZE | Errno::NOBUFS))
}

impl Deliver for Journal {
    fn deliver(&mut self, batch: &[Arc<Denial>]) -> Result<(), Undelivered> {
        for (n, denial) in batch.iter().enumerate() {
            self.send(&entry(denial))
                .map_err(|error| Undelivered::for_now(n, format!("{}: {error}", self.path.display())))?;
        }
        Ok(())
    }
}

fn entry(denial: &Denial) -> Vec<u8> {
    let mut entry = Vec::with_capacity(2048);
    field(&mut entry, "MESSAGE", &human::line(denial));
    field(&mut entry, "MESSAGE_ID", MESSAGE_ID);
    // As in syslog(3): warning, and notice of what was not stopped.
    field(&mut entry, "PRIORITY", if denial.verdict == "denied" { "4" } else { "5" });
    field(&mut entry, "SYSLOG_IDENTIFIER", "bulkhead");
    for (path, value) in flat(denial) {
        field(&mut entry, &name(&path), &text(&value));
    }
    entry
}

/// `peer.name` is `BULKHEAD_PEER`, and `peer.port` `BULKHEAD_PEER_PORT`.
pub(super) fn name(path: &str) -> String {
    let path = path.strip_suffix(".name").or_else(|| path.strip_suffix(".id")).unwrap_or(path);
    format!("BULKHEAD_{}", path.replace('.', "_").to_uppercase())
}

fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _, mem::MaybeUninit, thread};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;
    use crate::sinks::testing::denial;

    /// What journald makes of an entry.
    fn parse(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|b| matches!(b, b'=' | b'\n')).unwrap();
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            let rest = &entry[end + 1..];
            let (value, after) = if entry[end] == b'=' {
                rest.split_at(rest.iter().position(|b| *b == b'\n').unwrap())
            } else {
                let (length, rest) = rest.split_first_chunk().unwrap();
                rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap())
            };
            assert_eq!(after[0], b'\n');
            entry = &after[1..];
            fields.insert(name, String::from_utf8(value.to_vec()).unwrap());
        }
        fields
    }

    #[test]
    fn every_fact_is_a_field() {
        let fields = parse(&entry(&denial()));
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        insta::assert_snapshot!(names.join("\n"), @"
        BULKHEAD_COUNT
        BULKHEAD_DIRECTION
        BULKHEAD_GENERATION
        BULKHEAD_MODE
        BULKHEAD_NEAREST_RULE
        BULKHEAD_NEAREST_RULE_DIFFERS
        BULKHEAD_NEAREST_RULE_FILE
        BULKHEAD_NEAREST_RULE_LINE
        BULKHEAD_PEER
        BULKHEAD_PEER_ADDRESS
        BULKHEAD_PEER_ENVIRONMENT
        BULKHEAD_PEER_PORT
        BULKHEAD_PROCESS_COMM
        BULKHEAD_PROCESS_EXE
        BULKHEAD_PROCESS_PID
        BULKHEAD_PROCESS_UID
        BULKHEAD_PROTOCOL
        BULKHEAD_REASON
        BULKHEAD_SERVICE
        BULKHEAD_SUPPRESSED
        BULKHEAD_TIME
        BULKHEAD_VERDICT
        BULKHEAD_WORKLOAD
        BULKHEAD_WORKLOAD_CGROUP
        BULKHEAD_WORKLOAD_ENVIRONMENT
        BULKHEAD_WORKLOAD_UNIT
        MESSAGE
        MESSAGE_ID
        PRIORITY
        SYSLOG_IDENTIFIER
        ");
        // A process that names itself cannot add a field.
        assert_eq!(fields["BULKHEAD_PROCESS_COMM"], "cu\"r]l\n");
        assert_eq!(fields["BULKHEAD_PEER"], "db");
        assert_eq!(fields["MESSAGE"], human::line(&denial()));
    }

    #[test]
    fn an_entry_of_any_size_arrives_and_a_journal_may_come_late() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut journal = Journal::at(path.clone()).unwrap();
        let small = Arc::new(denial());
        let mut large = denial();
        large.workload.cgroup = Some("/long".repeat(100_000));
        let large = Arc::new(large);
        assert_eq!(journal.deliver(std::slice::from_ref(&small)).unwrap_err().refused, 0, "nobody listens");

        let listener = UnixDatagram::bind(&path).unwrap();
        let sent = thread::spawn(move || journal.deliver(&[small, large]));
        let mut bytes = [0; 8192];
        let length = listener.recv(&mut bytes).unwrap();
        assert_eq!(parse(&bytes[..length])["BULKHEAD_WORKLOAD_CGROUP"], "/ci.slice/job-7.scope");

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&listener, &mut [], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else {
            panic!("no file came along");
        };
        let mut file = std::fs::File::from(files.next().unwrap());
        let mut text = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(parse(&text)["BULKHEAD_WORKLOAD_CGROUP"].len(), 500_000);
        assert!(file.write_all(b"more").is_err(), "it is sealed");
        sent.join().unwrap().unwrap();
    }
}
