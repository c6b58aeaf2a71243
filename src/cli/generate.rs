//! The hidden `memray generate`: what packages ship beside the binary.

use super::failure::Failure;
use super::say::print;
use super::{GenerateArgs, GenerateWhat, command};

pub fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    match &args.what {
        GenerateWhat::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command(), "memray", &mut text);
            print(&text);
            Ok(())
        }
        GenerateWhat::Man { directory } => clap_mangen::generate_to(command(), directory).map_err(|error| {
            let fix = "name a directory that exists: memray generate man DIRECTORY".to_owned();
            Failure::new(format!("cannot write into {}: {error}", directory.display()), Some(fix))
        }),
    }
}
