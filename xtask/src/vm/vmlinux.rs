//! The kernel proper inside a bzImage. Emulated, a kernel takes longer to unpack itself than to boot.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Offsets in the setup header (Documentation/arch/x86/boot.rst in the kernel's tree), little-endian.
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// How a payload begins, and what unpacks it.
const PACKERS: [(&[u8], &[&str]); 4] = [
    (b"\xfd7zXZ\0", &["xz", "-dc", "--single-stream"]),
    (b"\x28\xb5\x2f\xfd", &["zstd", "-dcq"]),
    (b"\x1f\x8b", &["gzip", "-dcq"]),
    (b"\x02\x21\x4c\x18", &["lz4", "-dc"]),
];

/// The ELF image inside a bzImage.
pub(super) fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let number = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("it is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?).try_into()?)
    };
    let sectors = match image.get(SETUP_SECTORS) {
        None => bail!("it is too short"),
        Some(0) => 4,
        Some(n) => usize::from(*n),
    };
    let start = (sectors + 1) * SECTOR + number(PAYLOAD_OFFSET)?;
    let end = start + number(PAYLOAD_LENGTH)?;
    let payload = image.get(start..end).context("its payload lies outside of it")?;
    let Some((_, packer)) = PACKERS.iter().find(|(magic, _)| payload.starts_with(magic)) else {
        bail!("nobody knows how its payload is packed ({:02x?})", &payload[..4]);
    };
    let unpacked = pipe(packer, payload)?;
    ensure!(unpacked.starts_with(b"\x7fELF"), "what {} made of it is no kernel", packer[0]);
    Ok(unpacked)
}

/// What `command` makes of `input`. The four bytes of size that follow a payload may make it complain at the end.
fn pipe(command: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} cannot be started: run `cargo xtask setup`", command[0]))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    thread::scope(|scope| {
        // It may stop reading before the trailing size.
        scope.spawn(move || drop(stdin.write_all(input)));
        Ok(child.wait_with_output()?.stdout)
    })
}
