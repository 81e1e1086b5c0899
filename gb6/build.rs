//! Builds the binary again when the console was built again: the derive that embeds its files sees
//! changed ones, but no new ones.

fn main() {
    println!("cargo::rerun-if-changed=../console/dist");
}
