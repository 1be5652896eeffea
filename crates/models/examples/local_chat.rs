//! One prompt to the local model.
use std::io::Write as _;

use backlot_models::local::{LocalModel, Options};
use backlot_models::{Block, Event, Message, Model as _, Request, Role};
use futures::StreamExt as _;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let model = LocalModel::load(args[1].as_ref(), "x", Options::default()).unwrap();
    let request = Request { messages: vec![Message { role: Role::User, content: vec![Block::Text { text: args[2].clone() }] }], max_tokens: Some(160), temperature: Some(0.0), ..Request::default() };
    for _ in 0..2 {
    let t = std::time::Instant::now();
    let mut first=None; let mut n=0;
    let mut s = model.call(request.clone()).await.unwrap();
    while let Some(e) = s.next().await {
        match e.unwrap() { Event::Text{delta} => { n+=1; first.get_or_insert(t.elapsed()); print!("{delta}"); std::io::stdout().flush().unwrap(); }, e => println!("{e:?}") }
    }
    let f=first.unwrap();
    println!("first {:?}, {} tok/s", f, (n-1) as f64/(t.elapsed()-f).as_secs_f64());
    }
}
