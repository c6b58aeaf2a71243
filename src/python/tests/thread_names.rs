//! Threads are called what they call themselves.

use std::collections::BTreeMap;

use super::interpreters::{SUPPORTED, interpreter};
use super::target::Target;
use crate::python::thread_names::ThreadNames;

fn read(target: &Target) -> BTreeMap<u64, String> {
    let runtime = target.find().unwrap();
    let mut names = ThreadNames::default();
    let first = names.read(&target.memory, &runtime, |_| true);
    // What it remembers leads to the same.
    assert_eq!(names.read(&target.memory, &runtime, |_| true), first);
    assert_eq!(names.read(&target.memory, &runtime, |_| false), []);
    first.into_iter().collect()
}

/// Names in every kind of place in which a version keeps attributes.
const PROGRAM: &str = r#"
started = threading.Barrier(9)
def wait():
    started.wait()
    time.sleep(1000)
class Own(threading.Thread):
    def __init__(self, name):
        for i in range(40):
            setattr(self, 'attribute%d' % i, i)
        threading.Thread.__init__(self, name=name, target=wait)
class Slots(threading.Thread):
    __slots__ = ('a', 'b')
class Reordered(threading.Thread):
    def __init__(self, name):
        self.zzz = 1
        threading.Thread.__init__(self, name=name, target=wait)
        del self.zzz
threads = [threading.Thread(target=wait, name=name) for name in ('plain', 'näme €', '\U0001d54f', '')]
threads += [Own('many attributes'), Slots(target=wait, name='slots'), Reordered('reordered')]
materialised = threading.Thread(target=wait, name='before')
vars(materialised)['extra'] = 1
threads.append(materialised)
for t in threads:
    t.daemon = True
    t.start()
threads[0].name = 'renamed'
materialised.name = 'in a dict'
started.wait()
threading.main_thread().name = 'the first'
for t in threading.enumerate():
    say('thread', '%d %s' % (t.ident, t.name))
say('ready')
time.sleep(1000)
"#;

#[test]
fn names_are_those_that_python_gives() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(&python, PROGRAM);
        let said = target.all("thread").into_iter().map(|line| {
            let (ident, name) = line.split_once(' ').unwrap();
            (ident.parse().unwrap(), name.to_owned())
        });
        let expected: BTreeMap<u64, String> = said.collect();
        assert_eq!(expected.len(), 9);
        assert_eq!(read(&target), expected, "{version}");
    }
}

#[test]
fn a_program_without_threading_has_no_names() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let program = "import sys, time; print('ready'); sys.stdout.flush(); time.sleep(1000)";
        let target = Target::run(std::process::Command::new(&python).args(["-S", "-c", program]));
        let names = read(&target);
        assert!(names.values().all(|name| name == "MainThread"), "{version}: {names:?}");
    }
}
