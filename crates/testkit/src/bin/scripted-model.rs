//! The scripted model as a program, for benchmarks and for other people's clients: echoes, and prints its address.
//!
//! `scripted-model [ADDRESS]`, by default a free port of the loopback interface.

use std::io::Write as _;

use backlot_testkit::scripted_model::ScriptedModel;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let model = ScriptedModel::serve(tokio::net::TcpListener::bind(address).await?);
    model.forget_requests();
    writeln!(std::io::stdout(), "scripted model on {}", model.anthropic_url())?;
    tokio::signal::ctrl_c().await
}
