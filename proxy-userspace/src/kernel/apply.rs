//! Carrying out the edits of a plan, and what to do when that fails.
//!
//! There is no undo list. A plan is made from what the maps hold, every edit leaves them in
//! a state that serves traffic (see [`crate::kernel::plan`]), and a plan that was interrupted
//! shows in the settings' odd generation. Going on after a failure and going back are therefore
//! the same act: read the maps, plan for the configuration that is wanted, apply.

use crate::config::model::Config;
use crate::kernel::plan::{Host, Inputs, Overlay, Plan, PlanErrors, plan};
use crate::kernel::store::{MapEdit, MapStore, StoreError};

/// Carries out edits in their order, and stops at the first that fails.
///
/// # Errors
///
/// [`ApplyError`] with the number of edits that are in force.
pub fn apply(store: &mut impl MapStore, edits: &[MapEdit]) -> Result<(), ApplyError> {
    store.apply_all(edits).map_err(|(done, source)| ApplyError {
        done,
        total: edits.len(),
        source,
    })
}

/// An edit failed. The edits before it are in force, it and those after it are not.
#[derive(Debug, thiserror::Error)]
#[error("{done} of {total} edits of the data plane were carried out")]
pub struct ApplyError {
    /// Edits that are in force.
    pub done: usize,
    /// Edits of the plan.
    pub total: usize,
    /// What the store said of the one that failed.
    #[source]
    pub source: StoreError,
}

/// What a data plane is to follow.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Health, drains and weights.
    pub overlay: &'a Overlay,
    /// Facts about this machine.
    pub host: &'a Host,
}

/// Makes the data plane follow `target`, whatever it holds: reads it, plans and applies.
///
/// # Errors
///
/// [`FollowError`]. After [`FollowError::Plan`] and [`FollowError::Read`] nothing has changed.
/// After [`FollowError::Apply`] the maps serve some mixture of the old and the new, and calling
/// this again, for either, goes on from there.
pub fn follow(store: &mut impl MapStore, target: &Target<'_>) -> Result<Plan, FollowError> {
    let kernel = store.state().map_err(FollowError::Read)?;
    let plan = plan(&Inputs {
        config: target.config,
        overlay: target.overlay,
        kernel: &kernel,
        host: target.host,
    })?;
    apply(store, &plan.edits)?;
    Ok(plan)
}

/// The data plane does not follow the target.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The maps cannot be read.
    #[error("the data plane's maps cannot be read")]
    Read(#[source] StoreError),
    /// The target cannot be carried out.
    #[error("the configuration cannot be carried out")]
    Plan(#[from] PlanErrors),
    /// An edit failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Replaces one target by another, and goes back when an edit fails.
///
/// # Errors
///
/// [`ReplaceError`], which tells whether the data plane follows `old` again.
pub fn replace(
    store: &mut impl MapStore,
    old: &Target<'_>,
    new: &Target<'_>,
) -> Result<Plan, ReplaceError> {
    match follow(store, new) {
        Ok(plan) => Ok(plan),
        Err(error @ FollowError::Apply(_)) => match follow(store, old) {
            Ok(plan) => Err(ReplaceError::WentBack {
                error,
                plan: Box::new(plan),
            }),
            Err(back) => Err(ReplaceError::Stuck {
                error: Box::new(error),
                back: Box::new(back),
            }),
        },
        Err(error) => Err(ReplaceError::Refused(error)),
    }
}

/// The new target is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Nothing was changed.
    #[error(transparent)]
    Refused(FollowError),
    /// An edit failed; the old target is in force again.
    #[error("the new configuration is not in force, the previous one is again")]
    WentBack {
        /// Why.
        #[source]
        error: FollowError,
        /// The plan that led back, with the ids that hold now.
        plan: Box<Plan>,
    },
    /// An edit failed, and so did going back. What the maps hold serves traffic, but is a mixture;
    /// [`follow`] will go on from it.
    #[error("the new configuration is not in force, and going back failed, too: {back}")]
    Stuck {
        /// Why the new target is not in force.
        #[source]
        error: Box<FollowError>,
        /// Why the old one is not.
        back: Box<FollowError>,
    },
}

#[cfg(test)]
mod tests;
