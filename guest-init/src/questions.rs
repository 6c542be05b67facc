//! What the host may ask of a container that is there: to be paused, resumed, limited; its accounting and its
//! processes.

use crx_proto::{Answer, GuestMessage, ProcessId, Question};

use crate::container::{Container, processes, usage};
use crate::mounts::Pod;
use crate::net;
use crate::session::Session;
use crate::table::{Phase, Process};

/// The answer to every question about a container that is not there any more.
const ENDED: &str = "the container has ended";

impl Session<'_> {
    /// Answers a question, now or, for `Pause`, as soon as every process has stopped.
    pub(crate) fn answer(&mut self, number: u32, id: ProcessId, question: &Question) {
        if let Question::AddInterfaces(network) = question {
            let added = net::apply(network, &mut self.nics, &mut self.pod);
            let answer = added.map(|()| Answer::Done).map_err(|error| error.message);
            return self.host.send(&GuestMessage::Answer { number, answer });
        }
        let container = match self.table.get_mut(&id) {
            Some(Process { phase: Phase::Ended(_) | Phase::Failing(_), .. }) | None => None,
            Some(process) => process.container(),
        };
        let (answer, overtaken) = match container {
            None => (Some(Err(ENDED.to_owned())), None),
            Some(container) => {
                let before = container.pausing;
                let answer = answer(container, number, question, &mut self.pod);
                let overtaken = before.filter(|before| container.pausing != Some(*before));
                (answer, overtaken)
            }
        };
        if let Some(number) = overtaken {
            let answer = Err("another pause or resume came before it was paused".to_owned());
            self.host.send(&GuestMessage::Answer { number, answer });
        }
        match answer {
            Some(answer) => self.host.send(&GuestMessage::Answer { number, answer }),
            None => self.try_answer_pause(id),
        }
        // Accounting that was enabled just now is watched.
        self.report_out_of_memory(id);
    }

    /// Answers a `Pause`, if every process has stopped.
    pub(crate) fn try_answer_pause(&mut self, id: ProcessId) {
        let Some(container) = self.table.get_mut(&id).and_then(Process::container) else { return };
        if container.pausing.is_some()
            && container.cgroup.is_frozen()
            && let Some(number) = container.pausing.take()
        {
            self.host.send(&GuestMessage::Answer { number, answer: Ok(Answer::Done) });
        }
    }
}

/// What is answered at once; nothing for a pause, whose number is kept.
fn answer(
    container: &mut Container,
    number: u32,
    question: &Question,
    pod: &mut Pod,
) -> Option<Result<Answer, String>> {
    let done = |result: std::io::Result<()>| result.map(|()| Answer::Done).map_err(|error| error.to_string());
    Some(match question {
        Question::Pause => match container.cgroup.freeze(true) {
            Ok(()) => {
                (container.paused, container.pausing) = (true, Some(number));
                return None;
            }
            Err(error) => Err(format!("cgroup.freeze: {error}")),
        },
        Question::Resume => {
            (container.paused, container.pausing) = (false, None);
            done(container.cgroup.freeze(false).map_err(Into::into))
        }
        Question::Update(limits) => {
            container.cgroup.update(limits, pod).map(|()| Answer::Done).map_err(|error| error.message)
        }
        Question::Usage => usage::read(&mut container.cgroup, pod).map(Answer::Usage),
        Question::Processes => processes::list(&container.cgroup, pod).map(Answer::Processes),
        // Answered before a container is looked for.
        Question::AddInterfaces(_) => return None,
    })
}
