//! What was measured, as `cargo xtask bench` reads it.

use serde::Serialize;

/// One figure, and what was promised.
#[derive(Debug, Serialize)]
pub struct Figure<'a> {
    what: &'a str,
    value: f64,
    unit: &'a str,
    decimals: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<f64>,
}

impl<'a> Figure<'a> {
    /// A figure in this unit.
    pub fn new(what: &'a str, value: f64, unit: &'a str, decimals: usize) -> Self {
        Self { what, value, unit, decimals, at_most: None, at_least: None }
    }

    /// What it may be at most.
    pub fn at_most(self, goal: f64) -> Self {
        Self { at_most: Some(goal), ..self }
    }

    /// What it should be at least.
    pub fn at_least(self, goal: f64) -> Self {
        Self { at_least: Some(goal), ..self }
    }

    /// Says it.
    pub fn print(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}
