//! What the policy in force allows, and what each rule was good for.

use std::{collections::HashMap, time::Duration};

use bulkhead_policy::{End, Place, Policy, Ports};
use bulkhead_report::{History, Hits};
use jiff::Timestamp;
use tokio::{
    sync::oneshot,
    task::{self, spawn_blocking},
    time::timeout,
};

use super::Enforcement;
use crate::control::{ListedRule, RuleHits, Rules};

/// How long the disk may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Enforcement {
    /// Tells of all rules, with what the history has of their hits. Who asked may be gone.
    pub(in crate::daemon) fn tell_rules(&self, history: Option<History>, to: oneshot::Sender<Rules>) {
        let mut rules = listed(self.in_force().policy());
        // A disk is waited for: on another thread.
        task::spawn(async move {
            let unknown = match hits(history).await {
                Ok(hits) => {
                    for rule in rules.iter_mut().filter(|rule| rule.kind == "allow") {
                        let known = rule.id.as_ref().and_then(|id| hits.get(id));
                        rule.hits = Some(known.map(of_rule).unwrap_or_default());
                    }
                    None
                }
                Err(why) => Some(why),
            };
            let _ = to.send(Rules { rules, unknown });
        });
    }
}

/// What the history tells, or why it does not.
async fn hits(history: Option<History>) -> Result<HashMap<String, Hits>, String> {
    let Some(history) = history else {
        return Err("this agent keeps no history ([history] of agent.toml)".to_owned());
    };
    let read = async {
        history.write().await.map_err(|error| error.to_string())?;
        let read = spawn_blocking(move || history.hits()).await.map_err(|error| error.to_string())?;
        read.map_err(|error| error.to_string())
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| Err("the disk takes too long".to_owned()))
}

fn of_rule(hits: &Hits) -> RuleHits {
    let Hits { since, packets, bytes, connections, last } = *hits;
    RuleHits { since: Some(since), connections, packets, bytes, last }
}

fn listed(policy: &Policy) -> Vec<ListedRule> {
    let ends = |ends: &[End]| ends.iter().map(|end| policy.end_name(*end).to_string()).collect();
    let ports = |ports: &[Ports]| ports.iter().map(ToString::to_string).collect();
    let rule = |kind: &str, place: &Place| ListedRule {
        kind: kind.to_owned(),
        file: place.file.to_string(),
        line: place.line,
        ..ListedRule::default()
    };
    let allows = policy.rules.iter().map(|allow| ListedRule {
        id: Some(allow.id.clone()),
        words: policy.rule_in_words(allow),
        from: ends(&allow.from),
        to: ends(&allow.to),
        ports: ports(&allow.ports),
        reason: allow.reason.clone(),
        expires: allow.expires.map(time),
        ..rule("allow", &allow.place)
    });
    let forbids = policy.forbids.iter().map(|forbid| ListedRule {
        words: policy.forbid_in_words(forbid),
        from: ends(&forbid.from),
        to: ends(&forbid.to),
        ports: ports(&forbid.ports),
        except: forbid.except.iter().map(|rule| policy.rules[*rule].id.clone()).collect(),
        reason: forbid.reason.clone(),
        ..rule("forbid", &forbid.place)
    });
    allows.chain(forbids).collect()
}

fn time(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::MAX)
}
