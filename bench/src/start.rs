//! From start to ready, idle memory without the local model, and the size of the program.

use std::{path::Path, time::Duration};

use crate::{
    Figure,
    server::Server,
    statistics::{median, millis},
};

const ROUNDS: usize = 5;

pub(crate) async fn measure(program: &Path) -> anyhow::Result<Vec<Figure>> {
    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let server = Server::start(program, None).await?;
        starts.push(millis(server.start));
        tokio::time::sleep(Duration::from_secs(1)).await;
        memory.push(server.memory()?);
    }
    let memory = median(memory);
    #[expect(clippy::cast_precision_loss, reason = "some ten million")]
    let size = std::fs::metadata(program)?.len() as f64 / f64::from(1 << 20);
    Ok(vec![
        Figure::new("start", "from exec to the ready line, new data folder", median(starts), "ms"),
        Figure::new("start", "idle memory", memory, "MB").aim("≤ 40 MB", memory <= 40.0),
        Figure::new("start", "size of the program", size, "MB"),
    ])
}
