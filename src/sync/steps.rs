//! The steps that verbs share: load what is wanted, look at what is, plan, lock, execute.

pub(crate) mod load;
pub(crate) mod lockfile;
pub(crate) mod lockfile_place;
pub(crate) mod machine;
pub(crate) mod replace;
pub(crate) mod user_file;

pub(crate) mod desire;
pub(crate) mod engines;
pub(crate) mod hooks;
pub(crate) mod registries;
pub(crate) mod trust;

pub(crate) mod catch_up;
pub(crate) mod lock_home;
pub(crate) mod neighbours;

pub(crate) mod compare;
pub(crate) mod compare_blobs;
pub(crate) mod compare_engines;
pub(crate) mod finding;
pub(crate) mod owners_rules;
pub(crate) mod parts;
pub(crate) mod rebind;
pub(crate) mod reconcile;
pub(crate) mod run;

pub(crate) mod candidates;
pub(crate) mod give_up;
pub(crate) mod give_up_parts;
pub(crate) mod gone;
pub(crate) mod needed_here;
pub(crate) mod not_recorded;
pub(crate) mod spared;
pub(crate) mod totals;
pub(crate) mod unproven;
