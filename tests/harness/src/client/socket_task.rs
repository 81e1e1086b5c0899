//! The task that owns a session's socket: commands out, answers to their callers, pushes in order.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_wire::client::{Command, Reply};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::carrier::Carrier;
use super::session::{Calls, Push, Waiting};
use super::{ClientError, Incoming};

/// What the task works on.
pub(super) struct Run {
    pub(super) wire: Carrier,
    pub(super) calls: Arc<Mutex<Calls>>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) pushes: mpsc::Sender<Push>,
    pub(super) silence: Option<Duration>,
}

impl Run {
    /// Runs until the connection ends.
    pub(super) async fn run(mut self, first: Vec<Reply>) {
        let end = self.until_end(first).await;
        let waiting = {
            let mut calls = self.calls.lock();
            calls.ended = Some(end.clone());
            std::mem::take(&mut calls.waiting)
        };
        for waiting in waiting.into_values() {
            let (Waiting::Call(answer) | Waiting::Subscribe(_, answer)) = waiting;
            let _ = answer.send(Err(end.clone()));
        }
        let _ = self.pushes.send(Push::Closed(end)).await;
    }

    async fn until_end(&mut self, first: Vec<Reply>) -> ClientError {
        for reply in first {
            if let Err(error) = self.take(reply).await {
                return error;
            }
        }
        loop {
            let silence = self.silence.unwrap_or(Duration::from_secs(3600));
            let incoming = tokio::select! {
                incoming = tokio::time::timeout(silence, self.wire.next()) => incoming,
                command = self.commands.recv() => {
                    let Some(command) = command else {
                        return ClientError::Closed { code: 1000, reason: "closed here".into() };
                    };
                    // What waits already goes into the same frame.
                    let mut frame = vec![command];
                    while let Ok(command) = self.commands.try_recv() {
                        frame.push(command);
                    }
                    match self.wire.send(&frame).await {
                        Ok(()) => continue,
                        Err(error) => return error,
                    }
                }
            };
            match incoming {
                Err(_) => {
                    return ClientError::Closed {
                        code: 1006,
                        reason: format!("no ping within {silence:?}"),
                    };
                }
                Ok(Err(error)) => return error,
                Ok(Ok(Incoming::Closed { code, reason })) => {
                    return ClientError::Closed { code, reason };
                }
                Ok(Ok(Incoming::Replies(replies))) => {
                    for reply in replies {
                        if let Err(error) = self.take(reply).await {
                            return error;
                        }
                    }
                }
            }
        }
    }

    async fn take(&mut self, reply: Reply) -> Result<(), ClientError> {
        if reply.is_ping() {
            return self.wire.send(&[Command::default()]).await;
        }
        if let Some(push) = reply.push {
            // Nobody listens any more: the connection goes on for its calls.
            let _ = self.pushes.send(Push::Push(push)).await;
            return Ok(());
        }
        let waiting = self.calls.lock().waiting.remove(&reply.id);
        match waiting {
            // The caller has given up.
            None => {}
            Some(Waiting::Call(answer)) => {
                let _ = answer.send(Ok(reply));
            }
            Some(Waiting::Subscribe(channel, answer)) => {
                if let Some(result) = &reply.subscribe {
                    let push = Push::Subscribed(channel, result.clone());
                    let _ = self.pushes.send(push).await;
                }
                let _ = answer.send(Ok(reply));
            }
        }
        Ok(())
    }
}
