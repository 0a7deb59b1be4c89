//! The section `process`.

use super::map;
use crate::config::model::process::Process;
use serde_json::{Value, json};

pub(super) fn process(process: &Process) -> Value {
    map([
        ("user", process.user.as_ref().map(|user| json!(user))),
        ("group", process.group.as_ref().map(|group| json!(group))),
        ("capabilities", Some(process.capabilities.name().into())),
        ("no_new_privs", Some(process.no_new_privs.into())),
        ("landlock", Some(process.landlock.into())),
        ("paths", Some(json!(process.paths))),
    ])
}
