//! Cgroups made, entered and used at once.

use std::{
    ffi::OsString,
    fs, io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
};

use bulkhead_tests::probe::Done;

/// Visits to cgroups that nobody has seen before.
pub(crate) struct Visits<'a> {
    /// Their paths, but for a number and an ending.
    pub(crate) cgroups: &'a Path,
    pub(crate) ending: &'a str,
    /// Where to go afterwards.
    pub(crate) home: &'a Path,
    pub(crate) to: SocketAddr,
}

impl Visits<'_> {
    /// One after the other.
    pub(crate) fn make(&self, count: u32) -> io::Result<Done> {
        let (mut through, mut refused) = (0, 0);
        for number in 0..count {
            let mut cgroup = OsString::from(self.cgroups);
            cgroup.push(format!("{number}{}", self.ending));
            let cgroup = PathBuf::from(cgroup);
            fs::create_dir(&cgroup)?;
            fs::write(cgroup.join("cgroup.procs"), "0")?;
            let connected = TcpStream::connect(self.to);
            fs::write(self.home, "0")?;
            match connected {
                Ok(_) => through += 1,
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => refused += 1,
                Err(e) => return Err(e),
            }
            fs::remove_dir(&cgroup)?;
        }
        Ok(Done::Visited { through, refused })
    }
}
