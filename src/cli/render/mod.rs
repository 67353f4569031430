//! The rendering of reports, as text and as JSON.

pub mod check;
pub mod comparison;
pub mod explanation;
pub mod forecast;
pub mod info;
pub mod map;
pub mod picture;
pub mod snapshots;
pub mod speed;
pub mod storage;
pub mod summary;
