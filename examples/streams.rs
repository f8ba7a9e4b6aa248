//! Streams in three shapes: a feed of progress, an upload that is larger than a message may be, and a chat.
//!
//! ```text
//! cargo run --example streams                               # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example streams     # on RabbitMQ
//! ```
//!
//! The last line is the end of the chat.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rpc_core::{CallError, Connection, Incoming, RpcError, Server, Stream, rpc};
use rpc_examples::{exit_code, shared_url};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Length of the file that is uploaded, and of its parts.
const FILE: usize = 20 << 20;
const PART: usize = 256 << 10;

/// Progress of a job.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// Steps that are done.
    pub done: u32,
    /// All steps.
    pub of: u32,
}

/// Reasons for the end of a job.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum JobError {
    /// The job has no more room.
    #[error("the disk is full after step {step}")]
    DiskFull {
        /// The step that failed.
        step: u32,
    },
}

/// Reasons why a file was not stored.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum UploadError {
    /// The caller was gone before its last part.
    #[error("the file is incomplete: {reason}")]
    Incomplete {
        /// The error in place of the missing parts.
        reason: String,
    },
}

/// Jobs, files and rooms.
#[rpc]
pub trait Workshop {
    /// Runs a job, and reports each step.
    async fn run(steps: u32) -> impl Stream<Item = Result<Progress, JobError>>;

    /// Stores a file that comes in parts. Returns its length.
    async fn upload(name: String, parts: impl Stream<Item = Bytes>) -> Result<u64, UploadError>;

    /// Answers each line.
    async fn chat(lines: impl Stream<Item = String>) -> impl Stream<Item = String>;
}

#[derive(Debug)]
struct Shed;

impl Workshop for Shed {
    async fn run(&self, steps: u32) -> impl Stream<Item = Result<Progress, JobError>> {
        stream::iter(1..=steps).then(move |step| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            match step {
                8 => Err(JobError::DiskFull { step }),
                done => Ok(Progress { done, of: steps }),
            }
        })
    }

    async fn upload(&self, _name: String, mut parts: Incoming<Bytes>) -> Result<u64, UploadError> {
        let mut length = 0;
        while let Some(part) = parts.next().await {
            // An error means that parts are missing.
            let part = part.map_err(|error| UploadError::Incomplete {
                reason: error.to_string(),
            })?;
            length += part.len() as u64;
        }
        Ok(length)
    }

    async fn chat(&self, lines: Incoming<String>) -> impl Stream<Item = String> {
        // The stream of answers ends with the stream of lines. After an error the caller is gone, and needs no answer.
        lines.filter_map(async |line| Some(format!("{}?", line.ok()?)))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("streams", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = shared_url("streams");
    let serving = Connection::open(&url).await?;
    let server = Server::builder(&serving)
        .service(WorkshopDispatcher::new(Shed))
        .build()
        .start()
        .await?;
    let connection = Connection::open(&url).await?;
    let workshop = WorkshopClient::new(connection.client());
    follow(&workshop, 5).await?;
    follow(&workshop, 10).await?;
    upload(&workshop).await?;
    chat(&workshop).await?;
    server.shutdown().await?;
    Ok(())
}

/// Follows a job to its end.
async fn follow(workshop: &WorkshopClient, steps: u32) -> Result<(), RpcError> {
    let mut progress = workshop.run(steps).await?;
    println!("A job of {steps} steps:");
    while let Some(step) = progress.next().await {
        match step {
            Ok(Progress { done, of }) => println!("  {done} of {of}"),
            Err(CallError::App(error)) => println!("  the job has failed: {error}"),
            Err(CallError::Rpc(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Sends a file that is larger than a message may be.
async fn upload(workshop: &WorkshopClient) -> Result<(), CallError<UploadError>> {
    let part = Bytes::from(vec![0; PART]);
    let parts = stream::iter((0..FILE / PART).map(move |_| part.clone()));
    // The parts are taken as fast as the server reads them.
    let length = workshop.upload("photos.tar".to_owned(), parts).await?;
    println!("Uploaded {length} bytes in {} parts", FILE / PART);
    Ok(())
}

/// Says a line at a time, and waits for each answer.
async fn chat(workshop: &WorkshopClient) -> Result<(), RpcError> {
    let (say, lines) = mpsc::channel(1);
    let lines = stream::unfold(lines, async |mut lines| Some((lines.recv().await?, lines)));
    let mut answers = workshop.chat(lines).await?;
    for line in ["Hello", "Is anyone there", "Goodbye"] {
        let _ = say.send(line.to_owned()).await; // An error means that the chat is over.
        if let Some(answer) = answers.next().await {
            println!("{line} -> {}", answer?);
        }
    }
    drop(say);
    let end = answers.next().await.transpose()?;
    println!("The chat is over: {end:?}");
    Ok(())
}
