//! A process that opens sockets and uses them as its standard input says, one JSON request a line. Where it runs
//! (cgroup, namespaces) is its starter's business. It ends with its standard input.

#![forbid(unsafe_code)]

mod echo;
mod load;
mod memory;
mod pass;
mod sockets;
mod visit;

use std::{
    io::{self, BufRead as _, Write as _},
    time::Instant,
};

use anyhow::Result;
use bulkhead_tests::probe::{Answer, Request};

use self::sockets::Sockets;

fn main() -> Result<()> {
    let mut sockets = Sockets::default();
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let start = Instant::now();
        let result = sockets.perform(request);
        let elapsed = start.elapsed();
        let result = match result {
            Ok(done) => Ok(done),
            Err(e) => Err(errno(&e)?),
        };
        serde_json::to_writer(&mut output, &Answer { result, elapsed })?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

/// The error's number; errors of the standard library's own making have none but that of a time-out.
fn errno(error: &io::Error) -> Result<i32> {
    const ETIMEDOUT: i32 = 110;
    match error.raw_os_error() {
        Some(number) => Ok(number),
        None if error.kind() == io::ErrorKind::TimedOut => Ok(ETIMEDOUT),
        None => anyhow::bail!("{error}"),
    }
}
