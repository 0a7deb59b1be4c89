//! What is found in a configuration.

use crate::config::{ConfigErrors, Fault, Faults, Loaded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `POST /api/v1/validate`, and what `sluice validate --format json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ValidateAnswer {
    /// True if it could be put in force.
    pub valid: bool,
    /// Everything that was found, in the order of the text. What is valid has warnings at most.
    pub faults: Vec<FaultView>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultView {
    /// `error` or `warning`.
    pub severity: String,
    /// What kind it is.
    pub code: String,
    /// Name of the file.
    pub file: String,
    /// Line, counted from 1; 0 where the fault has no place in the text.
    pub line: u32,
    /// Column in characters, counted from 1; 0 as for `line`.
    pub column: u32,
    /// Offset of the text in octets.
    pub offset: usize,
    /// Octets of the text.
    pub length: usize,
    /// Path of the key, such as `services[2].backends[0].port`; empty for the whole file.
    pub path: String,
    /// The text that is there, shortened.
    pub text: String,
    /// What is wrong.
    pub message: String,
    /// What was expected.
    pub expected: Option<String>,
    /// How to mend it.
    pub fix: Option<String>,
}

impl From<&Fault> for FaultView {
    fn from(fault: &Fault) -> Self {
        Self {
            severity: fault.severity.name().to_owned(),
            code: fault.code.name().to_owned(),
            file: fault.file.to_string(),
            line: fault.line,
            column: fault.column,
            offset: fault.offset,
            length: fault.length,
            path: fault.path.clone(),
            text: fault.text.clone(),
            message: fault.message.clone(),
            expected: fault.expected.clone(),
            fix: fault.fix.clone(),
        }
    }
}

impl ValidateAnswer {
    /// The answer about these faults.
    pub fn new(valid: bool, faults: &Faults) -> Self {
        Self {
            valid,
            faults: faults.iter().map(FaultView::from).collect(),
        }
    }
}

impl From<&Result<Loaded, ConfigErrors>> for ValidateAnswer {
    fn from(judged: &Result<Loaded, ConfigErrors>) -> Self {
        match judged {
            Ok(loaded) => Self::new(true, &loaded.warnings),
            Err(errors) => Self::new(false, errors.faults()),
        }
    }
}
