//! The processor and its usable features.
//!
//! The features are detected with instructions of the processor, as the ciphers do it. Linux's `/proc/cpuinfo` has
//! the model's name, and a flag for virtual machines. If it can't be read, the model is unknown and there is no hint.

use std::fs;

use super::report::{Cpu, Feature};

/// Describes the processor. Returns a hint, too, if a virtual machine hides a feature.
pub fn look(threads: usize) -> (Cpu, Option<String>) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualised = has_flag(&info, "hypervisor");
    // The hint is only for virtual machines. On bare metal the firmware or the kernel has disabled AES.
    let hides_aes = cfg!(target_arch = "x86_64") && virtualised && !has_flag(&info, "aes");
    let cpu = Cpu {
        model: model(&info),
        threads,
        features: features(),
        virtualised,
    };
    (cpu, hides_aes.then(hidden_aes))
}

fn hidden_aes() -> String {
    "this is a virtual machine whose CPU model hides the AES instructions that the host's CPU \
     probably has; expose them with '-cpu host' (QEMU) or <cpu mode='host-passthrough'/> (libvirt)"
        .to_owned()
}

/// Returns the features of this architecture that the ciphers use.
fn features() -> Vec<Feature> {
    macro_rules! features {
        ($is_detected:ident: $($name:tt),*) => {
            vec![$(Feature { name: $name, present: std::arch::$is_detected!($name) }),*]
        };
    }
    #[cfg(target_arch = "x86_64")]
    return features!(is_x86_feature_detected: "aes", "vaes", "vpclmulqdq", "avx2", "avx512f");
    #[cfg(target_arch = "aarch64")]
    return features!(is_aarch64_feature_detected: "aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Vec::new();
}

/// Returns the value of a key in `/proc/cpuinfo`, for the first processor that has it.
fn value<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

fn has_flag(info: &str, flag: &str) -> bool {
    value(info, "flags").is_some_and(|flags| flags.split_whitespace().any(|have| have == flag))
}

/// Returns the model's name. For an ARM processor it is made of its implementer and part numbers.
fn model(info: &str) -> String {
    let part = || {
        let implementer = value(info, "CPU implementer")?;
        let part = value(info, "CPU part")?;
        Some(format!("part {part} of implementer {implementer}"))
    };
    value(info, "model name")
        .map(str::to_owned)
        .or_else(part)
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: &str = "processor\t: 0\nmodel name\t: AMD EPYC: the sequel\nflags\t\t: fpu aes \
                       hypervisor avx2\n\nprocessor\t: 1\nmodel name\t: other\nflags\t: none\n";
    const ARM: &str = "processor\t: 0\nFeatures\t: fp asimd aes\nCPU implementer\t: 0x41\n\
                       CPU part\t: 0xd0c\n";

    #[test]
    fn models_are_names_or_numbers() {
        assert_eq!(model(X86), "AMD EPYC: the sequel");
        assert_eq!(model(ARM), "part 0xd0c of implementer 0x41");
        assert_eq!(model(""), "unknown");
    }

    #[test]
    fn flags_are_whole_words() {
        assert!(has_flag(X86, "aes") && has_flag(X86, "hypervisor"));
        assert!(!has_flag(X86, "avx") && !has_flag(X86, "none"));
        assert!(!has_flag(ARM, "aes") && !has_flag("", "aes"));
    }

    #[test]
    fn the_backends_ask_for_nothing_that_is_not_shown() {
        use crate::crypto::Backend;
        let shown = features();
        for backend in Backend::available() {
            for (name, _) in backend.features() {
                assert!(shown.iter().any(|feature| feature.name == name), "{name}");
            }
        }
    }
}
