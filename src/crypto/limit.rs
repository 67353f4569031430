//! limit
/// x
pub fn all(reps: usize) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    unsafe {
        println!("{:?}", super::x86::limit::aesni(reps));
        println!("{:?}", super::x86::limit::vaes256(reps));
        println!("{:?}", super::x86::limit::vaes512(reps));
    }
}
