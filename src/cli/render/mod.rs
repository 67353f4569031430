//! Reports as text for people, and the forms that they have as JSON.

pub mod check;
pub mod info;
pub mod map;
pub mod snapshots;
pub mod speed;
pub mod storage;
