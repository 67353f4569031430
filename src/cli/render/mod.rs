//! Reports as text: for people and as JSON.

pub mod check;
pub mod info;
pub mod json;
pub mod map;
pub mod snapshots;
pub mod speed;
pub mod storage;
