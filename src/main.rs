//! The `coeval` command.

fn main() -> std::process::ExitCode {
    coeval::cli::main()
}
