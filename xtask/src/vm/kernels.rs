//! Debian's kernels, fetched from the mirror of this host and kept in the target directory. Nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::vmlinux;
use crate::{
    apt::{Apt, Archive},
    workspace::succeed,
};

/// The newest kernel that the suites hold.
const NEWEST: &str = "newest";

/// Suites with kernels.
const SUITES: [(&str, Archive); 5] = [
    ("bookworm-backports", Archive::Main),
    ("trixie-backports", Archive::Main),
    ("bullseye-security", Archive::Security),
    ("bookworm-security", Archive::Security),
    ("trixie-security", Archive::Security),
];

/// Built for virtual machines: all that is needed, and little else.
const FLAVOUR: &str = "-cloud-amd64";

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    directory: PathBuf,
}

impl Kernel {
    /// The kernel proper, to boot from.
    pub(super) fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The folder that holds `lib/modules`.
    pub(super) fn root(&self) -> PathBuf {
        self.directory.join("usr")
    }
}

/// Where kernels come from.
#[derive(Debug)]
pub(super) struct Source {
    cache: PathBuf,
    update: bool,
    apt: Option<Apt>,
}

impl Source {
    /// `update`: ask the mirror also for what is in the cache.
    pub(super) fn new(cache: PathBuf, update: bool) -> Result<Self> {
        fs::create_dir_all(&cache)?;
        Ok(Self { cache: fs::canonicalize(cache)?, update, apt: None })
    }

    /// The newest kernel of a series.
    pub(super) fn obtain(&mut self, series: &str) -> Result<Kernel> {
        // Which release a series stands for, as found the last time.
        let known = self.cache.join(format!("{series}.release"));
        if !self.update
            && let Ok(release) = fs::read_to_string(&known)
        {
            let kernel = self.kernel(&release);
            if kernel.vmlinux().exists() {
                return Ok(kernel);
            }
        }
        let apt = match &mut self.apt {
            Some(apt) => apt,
            none => none.insert(Apt::new(&self.cache.join("apt"), &SUITES)?),
        };
        let release = newest(apt, series)?;
        let packages = packages(apt, &release)?;
        let kernel = self.kernel(&release);
        if !kernel.vmlinux().exists() {
            self.unpack(&kernel, &packages).with_context(|| format!("kernel {release}"))?;
        }
        fs::write(known, release)?;
        Ok(kernel)
    }

    fn kernel(&self, release: &str) -> Kernel {
        Kernel { release: release.to_owned(), directory: self.cache.join(release) }
    }

    fn unpack(&self, kernel: &Kernel, packages: &[String]) -> Result<()> {
        let partial = self.cache.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        let (archives, root) = (partial.join("archives"), partial.join("root"));
        fs::create_dir_all(&archives)?;
        fs::create_dir_all(root.join("usr/lib"))?;
        // Older packages have modules in /lib, newer ones in /usr/lib: they shall meet there.
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
        let apt = self.apt.as_ref().context("the mirror has not been asked")?;
        succeed(apt.command("apt-get").arg("download").args(packages).current_dir(&archives))?;
        for archive in fs::read_dir(&archives)? {
            let tar = Command::new("sh")
                .args(["-c", r#"dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink -C "$1""#])
                .arg(archive?.path())
                .arg(&root)
                .status()?;
            ensure!(tar.success(), "dpkg-deb: {tar}");
        }
        let image = find(&root, "vmlinuz")?;
        let bytes = fs::read(&image)?;
        let vmlinux =
            vmlinux::unpack(&bytes).with_context(|| format!("{} has no kernel", image.display()))?;
        fs::write(root.join("vmlinux"), vmlinux)?;
        fs::remove_file(image)?;
        succeed(Command::new("depmod").arg("-b").arg(root.join("usr")).arg(&kernel.release))?;
        fs::rename(root, &kernel.directory)?;
        Ok(fs::remove_dir_all(partial)?)
    }
}

/// The first file below `directory` whose name begins so.
fn find(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let mut ahead = vec![directory.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                ahead.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(prefix) && entry.file_type()?.is_file()
            {
                return Ok(entry.path());
            }
        }
    }
    bail!("the packages hold no {prefix}")
}

/// The release of the newest kernel of a series whose packages are all there.
fn newest(apt: &Apt, series: &str) -> Result<String> {
    let output = apt.command("apt-cache").args(["search", "--names-only", "^linux-image-[0-9]"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut releases: Vec<_> = releases(&text, series).collect();
    releases.sort_by_key(|release| numbers(release));
    for release in releases.iter().rev() {
        // A superseded backport may have lost a part.
        if packages(apt, release).is_ok() {
            return Ok((*release).to_owned());
        }
    }
    bail!("no kernel of the series {series} is on this host's mirror")
}

/// The packages that make up a kernel: one, or since Linux 6.19 several.
fn packages(apt: &Apt, release: &str) -> Result<Vec<String>> {
    let offers = |package: &String| {
        let output = apt.command("apt-cache").args(["madison", package]).output();
        output.is_ok_and(|output| !output.stdout.is_empty())
    };
    let name = |part: &str| format!("linux-{part}-{release}");
    let parts = ["image", "binary", "modules", "base"].map(name);
    let there: Vec<_> = parts.into_iter().filter(offers).collect();
    let split = there.contains(&name("binary"));
    ensure!(there.contains(&name("image")), "linux-image-{release} is not on the mirror");
    ensure!(!split || there.contains(&name("modules")), "linux-modules-{release} is not on the mirror");
    Ok(there)
}

/// The releases of a series in what `apt-cache search` lists.
fn releases<'t>(list: &'t str, series: &'t str) -> impl Iterator<Item = &'t str> {
    let packages = list.lines().filter_map(|line| line.split(' ').next());
    let releases = packages.filter_map(|package| package.strip_prefix("linux-image-"));
    releases.filter(move |release| {
        let of_series = release.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'));
        release.ends_with(FLAVOUR) && (series == NEWEST || of_series)
    })
}

/// What a release is ordered by.
fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_whole_numbers() {
        let list = "linux-image-6.1.0-56-cloud-amd64 - Linux 6.1\nlinux-image-6.12.9+deb13-cloud-amd64 - x\n\
                    linux-image-6.1.0-9-cloud-amd64 - x\nlinux-image-6.1.0-57-amd64 - not for virtual machines\n";
        let mut found: Vec<_> = releases(list, "6.1").collect();
        found.sort_by_key(|release| numbers(release));
        assert_eq!(found, ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"]);
        assert_eq!(releases(list, NEWEST).count(), 3);
    }
}
