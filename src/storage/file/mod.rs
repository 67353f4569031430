//! Files and devices of this machine.
//!
//! - [`file_storage`]: an open file or device; [`driver`]: the protocols `file`, `host_device` and `host_cdrom`;
//! - `unfinished`, `folder_entry`: a file that is being created, and the place where it will be;
//! - `interrupt`, `gate`: the end by a signal, which undoes unfinished files;
//! - `locks`, `holder`: QEMU's locks, and the process that holds them;
//! - `share`: blocks that two files share; `optional`: system calls that only improve speed;
//! - `inherited`, `beneath`: names of open descriptors, and files behind loop devices;
//! - `create_options`: the options of new files.

mod beneath;
mod create_options;
pub mod driver;
mod file_storage;
mod folder_entry;
mod gate;
mod holder;
mod inherited;
mod interrupt;
mod locks;
mod optional;
mod share;
mod unfinished;

pub use create_options::{DEVICE_OPTIONS, FILE_OPTIONS, avoids_copies, check_preallocation};
pub use file_storage::{DIRECT_ALIGNMENT, FileStorage};
pub use inherited::check_name;
pub use interrupt::{before_interrupt, undo_when_interrupted};
pub use locks::Claim;
pub use share::{NotShared, SHARED_UNIT};
pub use unfinished::UnfinishedFile;
