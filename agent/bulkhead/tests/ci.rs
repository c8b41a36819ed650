//! The script and the workflow of docs/ci.md do what the page says, on a repository with a main branch and a pull request.

#![forbid(unsafe_code)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ci.md")).unwrap()
}

/// The only block of this kind on the page.
fn block(kind: &str) -> String {
    let page = page();
    let blocks: Vec<_> = page.split(&format!("```{kind}\n")).skip(1).collect();
    let [block] = blocks[..] else { panic!("one {kind} block, not {}", blocks.len()) };
    block.split("```").next().unwrap().to_owned()
}

/// The shell of the workflow's steps.
fn steps() -> Vec<String> {
    let workflow = block("yaml");
    let mut steps: Vec<String> = Vec::new();
    let mut indent = None;
    for line in workflow.lines() {
        let deep = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("run: "), indent) {
            (Some("|"), _) => {
                indent = Some(deep);
                steps.push(String::new());
            }
            (Some(command), _) => steps.push(format!("{command}\n")),
            (None, Some(outer)) if deep > outer => {
                *steps.last_mut().unwrap() += &[line.trim_start(), "\n"].concat();
            }
            (None, _) => indent = None,
        }
    }
    steps
}

const POLICY: &str = r#"[workload.web]
select = { systemd = "web.service" }
[workload.db]
select = { systemd = "db.service" }
[[allow]]
id = "web-db"
from = "web"
to = "db"
ports = ["tcp/5432"]
[[test]]
name = "the shop reads its orders"
from = "web"
to = "db"
port = "tcp/5432"
expect = "allow"
"#;

const FLOW: &str = r#"{"time":"2026-11-21T20:15:03Z","verdict":"allowed","direction":"egress","protocol":"tcp","workload":{"name":"web"},"peer":{"address":"127.0.0.1","port":5432,"name":"db"},"count":17,"service":"tcp/5432"}"#;

/// A clone with a pull request checked out. Its main branch has `main` as its policy, or none.
struct Repository {
    folder: TempDir,
}

impl Repository {
    fn new(main: Option<&str>) -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        let upstream = repository.folder.path().join("upstream");
        fs::create_dir_all(upstream.join("ci")).unwrap();
        fs::write(upstream.join("ci/policy.sh"), block("sh")).unwrap();
        if let Some(policy) = main {
            fs::create_dir(upstream.join("policies")).unwrap();
            fs::write(upstream.join("policies/shop.toml"), policy).unwrap();
        }
        let git = |folder: &Path, arguments: &[&str]| {
            let identity =
                ["-c", "user.name=ci", "-c", "user.email=ci@example.org", "-c", "commit.gpgsign=false"];
            let output = Command::new("git").args(identity).args(arguments).current_dir(folder).output();
            let output = output.expect("git cannot be started (package git)");
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        git(&upstream, &["init", "--quiet", "--initial-branch=main"]);
        git(&upstream, &["add", "."]);
        git(&upstream, &["commit", "--quiet", "--message=main"]);
        git(repository.folder.path(), &["clone", "--quiet", "upstream", "clone"]);
        fs::create_dir_all(repository.clone().join("policies")).unwrap();
        repository
    }

    fn clone(&self) -> PathBuf {
        self.folder.path().join("clone")
    }

    /// Runs the workflow's steps on this policy until one fails.
    fn run(&self, policy: &str) -> Output {
        fs::write(self.clone().join("policies/shop.toml"), policy).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_bulkhead")).parent().unwrap().to_owned();
        let path =
            env::join_paths([built].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())));
        let run = |step: &String| {
            Command::new("bash")
                .args(["-e", "-c", step])
                .current_dir(self.clone())
                .env("PATH", path.as_ref().unwrap())
                .env("NO_COLOR", "1")
                .env("GITHUB_BASE_REF", "main")
                .env("GITHUB_STEP_SUMMARY", self.folder.path().join("summary"))
                .output()
                .unwrap()
        };
        let steps = steps();
        assert_eq!(steps.len(), 2, "{steps:?}");
        let first = run(&steps[0]);
        if !first.status.success() {
            return first;
        }
        run(&steps[1])
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

#[track_caller]
fn ends_with(output: &Output, status: i32, expected: &str) {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(expected), "{expected:?}: {said}");
}

#[test]
fn a_change_of_access_is_shown_and_merged() {
    let repository = Repository::new(Some(POLICY));
    fs::write(repository.clone().join("flows.jsonl"), FLOW).unwrap();
    let more = "[[allow]]\nfrom = \"db\"\nto = \"192.0.2.1\"\nports = [\"tcp/443\"]\n";
    ends_with(&repository.run(&[POLICY, more].concat()), 0, "");
    let summary = repository.read("summary");
    assert!(summary.contains("    + db -> 192.0.2.1: tcp/443\n"), "{summary}");
    assert!(repository.read("clone/policy-tests.xml").contains("tests=\"1\" failures=\"0\""));
}

#[test]
fn flows_that_would_be_refused_are_shown() {
    let repository = Repository::new(Some(POLICY));
    fs::write(repository.clone().join("flows.jsonl"), FLOW).unwrap();
    ends_with(&repository.run(&POLICY.replace("tcp/5432", "tcp/5433")), 0, "");
    let summary = repository.read("summary");
    assert!(summary.contains("    ~ web -> db tcp/5432: allowed -> denied (17)\n"), "{summary}");
    assert!(summary.contains("    - web -> db: tcp/5432\n"), "{summary}");
}

#[test]
fn a_change_of_words_alone_changes_nothing() {
    let repository = Repository::new(Some(POLICY));
    ends_with(&repository.run(&POLICY.replace("id = \"web-db\"", "id = \"orders\"")), 0, "");
    let summary = repository.read("summary");
    assert!(summary.contains("no difference in access"), "{summary}");
}

#[test]
fn a_first_policy_is_compared_with_nothing() {
    let repository = Repository::new(None);
    ends_with(&repository.run(POLICY), 0, "");
    assert_eq!(repository.read("clone/policy-changes.txt"), "");
}

#[test]
fn a_mistake_a_warning_and_a_broken_promise_stop_the_merge() {
    let repository = Repository::new(Some(POLICY));
    ends_with(
        &repository.run(&POLICY.replace("from = \"web\"\nto", "form = \"web\"\nto")),
        1,
        "did you mean `from`?",
    );
    let expired = "[[allow]]\nfrom = \"db\"\nto = \"any\"\nexpires = 2020-01-01T00:00:00Z\n";
    ends_with(&repository.run(&[POLICY, expired].concat()), 1, "warning[expired-rule]");
    let broken = POLICY.replace("expect = \"allow\"", "expect = \"deny\"");
    ends_with(&repository.run(&broken), 1, "FAIL policies/shop.toml:10 the shop reads its orders");
    assert!(repository.read("clone/policy-tests.xml").contains("failures=\"1\""));
    ends_with(&repository.run(""), 2, "there is nothing in policies/shop.toml");
}

#[test]
fn a_base_that_cannot_be_read_is_no_difference() {
    let repository = Repository::new(Some("[workload.web]\n"));
    ends_with(&repository.run(POLICY), 2, "the policy does not compile");
}
