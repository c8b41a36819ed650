//! `bulkhead plan`, `apply`, `confirm` and `rollback`.

use std::{
    fmt::Write,
    io,
    path::{self, Path},
};

use bulkhead_policy::{Policy, Source, load};
use serde_json::json;

use crate::{
    cli::{ApplyArguments, ConfirmArguments, Output, PlanArguments},
    control::{
        APPLY, Applied, CONFIRM, ClientError, Confirmation, Cut, File, PLAN, Plan, Proposal, ROLLBACK,
        Refusal, post,
    },
    input::InputError,
    output::{self, Outcome, plural},
    policy_files,
};

/// Asks the agent on `socket` what a policy would change.
pub(crate) async fn plan(
    socket: &Path,
    arguments: &PlanArguments,
    output: Output,
) -> anyhow::Result<Outcome> {
    let sources = policy_files::read(&arguments.policy.paths).map_err(InputError::from)?;
    let warnings = match compile(&sources, output) {
        Ok((_, warnings)) => warnings,
        Err(outcome) => return Ok(outcome),
    };
    let proposal = Proposal { policy: files(sources), ..Proposal::default() };
    let plan: Plan = post(socket, PLAN, &proposal).await?;
    let denied = plan.cut.iter().filter(|cut| cut.verdict == "denied").count();
    let text = match output {
        Output::Json => output::json(&plan),
        Output::Human => {
            let mut text = warnings;
            if plan.changes.is_empty() {
                text += "no difference in access\n";
            } else {
                text += &output::plain_lines(&plan.changes.to_string());
            }
            text + &cut_in_words(&plan.cut, plan.more_cut, "would be cut")
        }
    };
    Ok(Outcome { text, finding: denied > 0 })
}

/// Has the agent on `socket` put a policy in force.
pub(crate) async fn apply(
    socket: &Path,
    arguments: &ApplyArguments,
    output: Output,
) -> anyhow::Result<Outcome> {
    let sources = policy_files::read(&arguments.policy.paths).map_err(InputError::from)?;
    let proposal = Proposal {
        policy: files(sources.clone()),
        confirm_within: arguments.confirm_within.map(|time| time.as_secs_f64()),
        force: arguments.force,
    };
    // The agent compiles it, too, and what it says counts; what is wrong with it nobody has to ask an agent for.
    let compiled = tokio::task::spawn_blocking(move || compile(&sources, output));
    let done = post(socket, APPLY, &proposal).await;
    let (count, warnings) = match compiled.await? {
        Err(outcome) if done.is_err() => return Ok(outcome),
        Err(_) => ("a policy that this version of bulkhead cannot read".to_owned(), String::new()),
        Ok((policy, warnings)) => {
            let (workloads, rules) = (policy.workloads.len(), policy.rules.len());
            (format!("{} and {}", plural(workloads, "workload"), plural(rules, "rule")), warnings)
        }
    };
    tell(done, output, |applied| {
        let mut text = warnings;
        let Applied { generation, confirm_within, .. } = applied;
        // Writing to a string cannot fail.
        let _ = match confirm_within {
            Some(seconds) => writeln!(
                text,
                "in force for {seconds} s: {count}, generation {generation}. Can you still log in? Then say `bulkhead \
                 confirm`; else the policy before comes back by itself"
            ),
            None => writeln!(text, "in force: {count}, generation {generation}"),
        };
        text + &cut_in_words(&applied.cut, applied.more_cut, "cut")
    })
}

/// Lets stay what the agent on `socket` has in force for a while.
pub(crate) async fn confirm(
    socket: &Path,
    arguments: &ConfirmArguments,
    output: Output,
) -> anyhow::Result<Outcome> {
    let what = Confirmation { policy_hash: arguments.policy_hash.clone() };
    let path = format!("{CONFIRM}?{}", serde_urlencoded::to_string(&what)?);
    let done = post(socket, &path, &json!({})).await;
    tell(done, output, |applied| format!("confirmed: generation {} stays\n", applied.generation))
}

/// Has the agent on `socket` go back to the policy before.
pub(crate) async fn roll_back(socket: &Path, output: Output) -> anyhow::Result<Outcome> {
    let done = post(socket, ROLLBACK, &json!({})).await;
    tell(done, output, |applied| {
        let text =
            format!("rolled back: the policy before is in force again, generation {}\n", applied.generation);
        text + &cut_in_words(&applied.cut, applied.more_cut, "cut")
    })
}

/// The policy and what there is to warn of, or else what is wrong with it: nobody has to ask an agent for that.
pub(crate) fn compile(sources: &[Source], output: Output) -> Result<(Policy, String), Outcome> {
    let color = output::color(&io::stdout());
    match load(sources) {
        Ok(loaded) => Ok((loaded.policy, loaded.warnings.render(sources, color))),
        Err(findings) => {
            let text = match output {
                Output::Json => findings.iter().map(output::json).collect(),
                Output::Human => findings.render(sources, color) + "nothing has changed\n",
            };
            Err(Outcome { text, finding: true })
        }
    }
}

/// As an agent names them, which is in another directory.
pub(crate) fn files(sources: Vec<Source>) -> Vec<File> {
    let named = sources.into_iter().map(|source| {
        let absolute =
            path::absolute(&source.name).ok().filter(|_| source.name != policy_files::OF_STANDARD_INPUT);
        let name = absolute.map_or(source.name, |path| policy_files::name(&path));
        File { name, text: source.text }
    });
    named.collect()
}

/// What came of it, in words.
fn tell(
    done: Result<Applied, ClientError>,
    output: Output,
    in_words: impl FnOnce(&Applied) -> String,
) -> anyhow::Result<Outcome> {
    match done {
        Ok(applied) => {
            let text = match output {
                Output::Json => output::json(&applied),
                Output::Human => {
                    let notes =
                        applied.notes.iter().map(|note| output::plain_lines(&format!("warning: {note}")));
                    in_words(&applied) + &notes.collect::<String>()
                }
            };
            Ok(Outcome { text, finding: false })
        }
        Err(error) => refused(error, output),
    }
}

/// What the agent refuses is a finding like others.
pub(crate) fn refused(error: ClientError, output: Output) -> anyhow::Result<Outcome> {
    let ClientError::Refused(refusal) = error else { return Err(error.into()) };
    let Refusal { error, cut, .. } = &*refusal;
    let text = match output {
        Output::Json => output::json(&refusal),
        Output::Human => {
            let cut = cut.iter().map(cut_line).collect::<String>();
            output::plain_lines(error) + &cut
        }
    };
    Ok(Outcome { text, finding: true })
}

fn cut_in_words(cut: &[Cut], more: usize, what: &str) -> String {
    let mut text = String::new();
    for (verdict, what) in [("denied", what), ("would-deny", "would be cut, if that were enforced")] {
        let these: Vec<&Cut> = cut.iter().filter(|cut| cut.verdict == verdict).collect();
        if !these.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} {what}:", plural(these.len(), "open connection"));
            text.extend(these.into_iter().map(cut_line));
        }
    }
    if more > 0 {
        let _ = writeln!(text, "and {}", plural(more, "more open connection"));
    }
    text
}

fn cut_line(cut: &Cut) -> String {
    let guard = match cut.guard.as_deref() {
        Some("session") => "  your own session",
        Some("ssh") => "  SSH",
        Some("kubernetes-api") => "  the Kubernetes API",
        Some("dns") => "  DNS",
        _ => "",
    };
    let nearest = cut.nearest_rule.as_ref().map(|nearest| {
        format!(
            "\n      nearest is rule `{}` ({}:{}), which differs in {}",
            nearest.id,
            nearest.file,
            nearest.line,
            nearest.differs.join(" and ")
        )
    });
    output::plain_lines(&format!("  {}{guard}{}", cut.in_words(), nearest.unwrap_or_default()))
}
