//! What is no policy is wrong input (exit status 2), and the message says which file and why.

#![forbid(unsafe_code)]

mod shell;

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use shell::{bulkhead, command, transcript};

const POLICY: &str = "[workload.web]\nselect = { systemd = \"web.service\" }\n[[allow]]\nfrom = \"any\"\nto = \"web\"\nports = [\"tcp/80\"]\n";

/// A folder with a policy and everything that is none.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["empty", "notes", "whole"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("notes/README.md"), "# no policy").unwrap();
    fs::write(at("whole/web.toml"), POLICY).unwrap();
    fs::write(at("zero.toml"), "").unwrap();
    fs::write(at("blank.toml"), "\n  \n").unwrap();
    fs::write(at("binary.toml"), b"\x7fELF\x02\x01\xff\xfe\0\0").unwrap();
    fs::write(at("latin.toml"), b"# first\n# B\xfcro\n").unwrap();
    symlink("loop.toml", at("loop.toml")).unwrap();
    symlink("nowhere", at("broken.toml")).unwrap();
    folder
}

#[track_caller]
fn is_wrong_input(folder: &Path, arguments: &[&str], expected: &str) {
    let said = transcript(&command(folder, arguments).output().unwrap());
    assert!(said.starts_with("exit status: 2\n"), "{arguments:?}: {said}");
    assert!(said.contains(expected), "{arguments:?} says {expected:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

const NO_POLICIES: [(&str, &str); 8] = [
    ("nowhere.toml", "error: there is no policy at nowhere.toml: name a file or a folder of *.toml files\n"),
    ("broken.toml", "error: there is no policy at broken.toml"),
    ("empty", "error: there is no policy in empty: it holds no *.toml file"),
    ("notes", "error: there is no policy in notes: it holds no *.toml file"),
    ("zero.toml", "error: there is nothing in zero.toml: a policy that declares nothing isolates nobody\n"),
    ("blank.toml", "error: there is nothing in blank.toml"),
    ("binary.toml", "error: binary.toml:1: this is not UTF-8 text: a policy is TOML\n"),
    ("latin.toml", "error: latin.toml:2: this is not UTF-8 text: a policy is TOML\n"),
];

#[test]
fn what_is_no_policy_is_named_with_why() {
    let folder = folder();
    for (path, expected) in NO_POLICIES {
        is_wrong_input(folder.path(), &["check", path], expected);
        // Beside a policy a file that says nothing yet does no harm.
        if !expected.starts_with("error: there is nothing") {
            is_wrong_input(folder.path(), &["check", "whole", path], expected);
        }
    }
    is_wrong_input(
        folder.path(),
        &["check", "loop.toml"],
        "error: cannot read the policy loop.toml: Too many levels of symbolic links",
    );
}

/// What the binary says, which is given `input`; fails if it has not ended in time.
#[track_caller]
fn given(input: &[u8], folder: &Path, arguments: &[&str]) -> String {
    let mut process = command(folder, arguments);
    let process = process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process.spawn().unwrap();
    // Who does not read has ended: then the write fails, and what was said tells why.
    let _ = child.stdin.take().unwrap().write_all(input);
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{arguments:?} does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
    transcript(&child.wait_with_output().unwrap())
}

#[test]
fn a_policy_may_come_from_standard_input() {
    let folder = folder();
    for arguments in [&["check", "-"][..], &["check", "-", "-"], &["check", "-", "zero.toml"]] {
        let said = given(POLICY.as_bytes(), folder.path(), arguments);
        assert!(said.starts_with("exit status: 0\n") && said.contains("ok: 1 workload, 1 rule"), "{said}");
    }
    let said = given(b"x = 1\n", folder.path(), &["check", "-"]);
    assert!(said.contains("--> standard input:1:1\n"), "{said}");
    let said = given(b"", folder.path(), &["check", "-"]);
    assert!(said.contains("error: there is nothing in standard input: "), "{said}");
    let said = given(b"\xff", folder.path(), &["check", "-"]);
    assert!(said.contains("error: standard input:1: this is not UTF-8 text"), "{said}");
    let said = given(POLICY.as_bytes(), folder.path(), &["diff", "whole", "-"]);
    assert!(said.starts_with("exit status: 0\n"), "{said}");
    // A file of this name has another path.
    fs::write(folder.path().join("-"), "x = 1\n").unwrap();
    assert!(given(POLICY.as_bytes(), folder.path(), &["check", "-"]).starts_with("exit status: 0\n"));
    assert!(given(POLICY.as_bytes(), folder.path(), &["check", "./-"]).contains("--> ./-:1:1\n"));
}

#[test]
fn standard_input_is_read_once() {
    let folder = folder();
    let ends = ["--from", "any", "--to", "web", "--port", "tcp/80"];
    for arguments in [
        &["diff", "-", "-"][..],
        &["simulate", "-", "--flows", "-"],
        &["simulate", "whole", "--against", "-", "--flows", "-"],
        &[&["explain", "-", "--against", "-"][..], &ends].concat(),
    ] {
        let said = given(POLICY.as_bytes(), folder.path(), arguments);
        let expected =
            "error: standard input is named twice (`-`) and can be read once: name a file for one of them";
        assert!(said.starts_with("exit status: 2\n") && said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn what_is_no_file_is_not_read_in_a_folder_and_is_if_it_is_named() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = folder();
    let pipe = folder.path().join("whole/pipe.toml");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let said = given(b"", folder.path(), &["check", "whole"]);
    assert!(said.starts_with("exit status: 2\n"), "{said}");
    assert!(said.contains("error: whole/pipe.toml is no file: "), "{said}");
    fs::rename(&pipe, folder.path().join("pipe.toml")).unwrap();
    for (name, target) in [("device", "/dev/null"), ("folder", "../notes")] {
        let link = folder.path().join(format!("whole/{name}.toml"));
        symlink(target, &link).unwrap();
        is_wrong_input(folder.path(), &["check", "whole"], &format!("error: whole/{name}.toml is no file: "));
        fs::remove_file(&link).unwrap();
    }
    symlink("../whole/web.toml", folder.path().join("empty/link.toml")).unwrap();
    let said = given(b"", folder.path(), &["check", "empty"]);
    assert!(said.contains("ok: 1 workload"), "{said}");
    let writer = folder.path().join("pipe.toml");
    let writer = thread::spawn(move || fs::write(writer, POLICY).unwrap());
    let said = given(b"", folder.path(), &["check", "pipe.toml"]);
    assert!(said.contains("ok: 1 workload"), "{said}");
    writer.join().unwrap();
}

#[test]
fn every_command_says_it_alike() {
    let folder = folder();
    let flows = ["--flows", "/dev/null"];
    for (path, expected) in NO_POLICIES {
        is_wrong_input(folder.path(), &["test", path], expected);
        is_wrong_input(folder.path(), &[&["simulate", path][..], &flows].concat(), expected);
        is_wrong_input(folder.path(), &["diff", path, "whole"], expected);
        is_wrong_input(folder.path(), &["diff", "whole", path], expected);
        is_wrong_input(folder.path(), &["run", "--policy", path], expected);
    }
}

#[test]
fn a_question_about_more_than_anybody_reads_is_answered_with_what_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let workload = |n| format!("[workload.w{n}]\nselect = {{ systemd = \"w{n}.service\" }}\n");
    let policy: String =
        (0..450).map(workload).chain(["[[allow]]\nfrom = \"w0\"\nto = \"w1\"\n".into()]).collect();
    fs::write(folder.path().join("p.toml"), policy).unwrap();
    let explain = |from| ["explain", "p.toml", "--from", from, "--to", "any", "--port", "tcp/80"];
    let expected = "and at most 200000 are explained at once: name fewer at one end";
    is_wrong_input(folder.path(), &explain("any"), expected);
    let said = transcript(&command(folder.path(), &explain("w0")).output().unwrap());
    assert!(said.starts_with("exit status: 1\n") && said.contains("allowed: w0 -> w1 tcp/80\n"), "{said}");
}

#[test]
fn a_file_may_have_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &OsStr, arguments: &[&str]| {
        let mut command = command(folder.path(), &arguments[..1]);
        transcript(&command.arg(name).args(&arguments[1..]).output().unwrap())
    };
    let [latin, control] = [&b"b\xfcro.toml"[..], b"\x1b[31m\nred.toml"].map(OsStr::from_bytes);
    fs::write(folder.path().join(latin), POLICY).unwrap();
    fs::write(folder.path().join(control), "x = 1\n").unwrap();
    let said = run(control, &["check"]);
    assert!(said.contains("--> \\u{1b}[31m\\nred.toml:1:1\n"), "{said}");
    let ends = ["--from", "any", "--to", "web", "--port", "tcp/80", "--output", "json"];
    let against = ["--against", "same.toml"];
    fs::write(folder.path().join("same.toml"), POLICY).unwrap();
    let said = run(latin, &[&["explain"], &ends[..], &against].concat());
    assert!(said.contains("\"policy\":[\"b\u{fffd}ro.toml\"],\"changed\":false"), "{said}");
    let said = run(latin, &["explain", "--from", "any", "--to", "web", "--port", "tcp/80"]);
    assert!(said.contains("(b\u{fffd}ro.toml:3)"), "{said}");
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let folder = folder();
    let (policy, copy) = (folder.path().join("whole/web.toml"), folder.path().join("bulkhead"));
    fs::set_permissions(&policy, Permissions::from_mode(0o000)).unwrap();
    let mut check = command(Path::new("/"), &["check"]);
    // Root may read everything: be nobody, who may not go where the binary was built.
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(check.get_program(), &copy).unwrap();
        check = Command::new(&copy);
        check.arg("check").uid(65_534).gid(65_534);
    }
    let said = transcript(&check.arg(folder.path().join("whole")).output().unwrap());
    assert!(said.starts_with("exit status: 2\n"), "{said}");
    assert!(said.contains("error: cannot read the policy ") && said.contains("Permission denied"), "{said}");
}

#[test]
fn a_command_without_a_policy_shows_its_usage() {
    for command in ["check", "test", "explain", "simulate", "diff"] {
        let said = bulkhead(&[], &[command]);
        assert!(said.starts_with("exit status: 2\n"), "{said}");
        assert!(said.contains(&format!("Usage: bulkhead {command} ")), "{said}");
    }
}

#[test]
fn an_end_that_cannot_be_told_is_answered_with_what_to_give() {
    let folder = folder();
    let explain = |from, to, port, expected: &str| {
        let arguments = ["explain", "whole", "--from", from, "--to", to, "--port", port];
        is_wrong_input(folder.path(), &arguments, expected);
    };
    explain("wbe", "any", "tcp/1", "error: the policy has no workload or peer `wbe`: did you mean `web`?\n");
    explain(
        "web",
        "example.com",
        "tcp/1",
        "no peer of the policy has the DNS name `example.com`: whether it may be reached depends on its addresses",
    );
    explain("web", "env:prod", "tcp/1", "the policy has no environment `prod`: ");
    explain("web", "10.0.0.1/8", "tcp/1", "did you mean `10.0.0.0/8`?\n");
    explain("web", "host", "tcp/*", "give one port, such as tcp/443");
}
