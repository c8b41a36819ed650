//! bpf-linker and the LLVM that it links.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Missing;

/// The linker's name.
pub const LINKER: &str = "bpf-linker";

/// An installed bpf-linker that starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// Where it is.
    pub path: PathBuf,
    /// The major version of its LLVM; none where that is linked statically, since bpf-linker does not print it.
    pub llvm: Option<u32>,
}

impl Linker {
    /// Looks in `PATH`, then in cargo's directory: a cargo that rustup did not start leaves that out of `PATH`.
    pub fn find() -> Result<Self, Missing> {
        let path = env::var_os("PATH")
            .iter()
            .flat_map(env::split_paths)
            .chain(cargo_bin())
            .map(|directory| directory.join(LINKER))
            .find(|path| path.is_file())
            .ok_or(Missing::Linker)?;
        let started = Command::new(&path).arg("--version").output();
        let started = started.map_err(|error| Missing::LinkerBroken(error.to_string()))?;
        if !started.status.success() {
            let why = String::from_utf8_lossy(&started.stderr);
            return Err(Missing::LinkerBroken(why.lines().next().unwrap_or("no message").to_owned()));
        }
        let llvm = shared_libraries(&path).as_deref().and_then(llvm_among);
        Ok(Self { path, llvm })
    }
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")))?;
    Some(home.join("bin"))
}

fn shared_libraries(program: &Path) -> Option<String> {
    let ldd = Command::new("ldd").arg(program).output().ok()?;
    ldd.status.success().then(|| String::from_utf8_lossy(&ldd.stdout).into_owned())
}

/// LLVM's major version in ldd's output: `libLLVM.so.22.1`, up to LLVM 17 `libLLVM-17.so.1`.
fn llvm_among(libraries: &str) -> Option<u32> {
    let (_, name) = libraries.split_once("libLLVM")?;
    let version = name.strip_prefix(".so.").or_else(|| name.strip_prefix('-'))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_among;

    #[test]
    fn the_linkers_llvm_is_read_from_its_shared_library() {
        let now = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007f4c6d400000)\n";
        let once = "\tlibLLVM-17.so.1 => /usr/lib/x86_64-linux-gnu/libLLVM-17.so.1 (0x0000)\n";
        let none = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f4c6d21e000)\n";
        assert_eq!([now, once, none].map(llvm_among), [Some(22), Some(17), None]);
    }
}
