//! The section `process`.

use super::{elements, fields::not_empty, or};
use crate::config::decode::Field;
use crate::config::fault::Code;
use crate::config::file::process as file;
use crate::config::model::process::{CapabilityPolicy, Process};
use crate::config::report::{Draft, Place, Report};

/// The section `process`. `has_l4`: something is balanced in the kernel.
pub(super) fn process(
    report: &Report<'_>,
    field: &Field<file::Process>,
    needs_root: bool,
) -> Process {
    let defaults = Process::default();
    let Some(keys) = field.value() else {
        return defaults;
    };
    if let Some(user) = keys.user.given()
        && needs_root
    {
        let what = "the kernel part belongs to root: with `l4`, `connect`, `steer` or `mesh` there is no \
                    other user";
        let draft = Draft::new(Code::Conflict, what).fix(
            "remove `user`, and write `capabilities: needed`; or run the listeners of other kinds \
             in a daemon of their own",
        );
        report.error(Place::Value(user.node), draft);
    }
    if let Some(group) = keys.group.given()
        && keys.user.is_absent()
    {
        let draft = Draft::new(
            Code::Conflict,
            "`group` goes with `user`, which is not given",
        )
        .fix("add `user`, or remove `group`");
        report.error(Place::Value(group.node), draft);
    }
    if let Some(paths) = keys.paths.given()
        && !paths.value.is_empty()
        && !or(&keys.landlock, false)
    {
        report.warn(
            Place::Value(paths.node),
            "`paths` are for landlock, which is off",
            "add `landlock: true`, or remove `paths`",
        );
    }
    Process {
        user: not_empty(report, &keys.user, "a user"),
        group: not_empty(report, &keys.group, "a group"),
        capabilities: match keys.capabilities.value() {
            None => defaults.capabilities,
            Some(file::Capabilities::Keep) => CapabilityPolicy::Keep,
            Some(file::Capabilities::Usable) => CapabilityPolicy::Usable,
            Some(file::Capabilities::Needed) => CapabilityPolicy::Needed,
        },
        no_new_privs: or(&keys.no_new_privs, defaults.no_new_privs),
        landlock: or(&keys.landlock, defaults.landlock),
        paths: elements(&keys.paths).map(|at| at.value.0.clone()).collect(),
    }
}
