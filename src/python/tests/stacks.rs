//! Walks and recipes: what is read from outside is what the program's own threads say.

use std::collections::HashMap;

use super::interpreters::{SUPPORTED, interpreter};
use super::target::Target;
use crate::python::Runtime;
use crate::python::layout::{Instruction, Layout};
use crate::python::proof::Proof;
use crate::python::walk::{CodeCache, walk};

/// Main is in a generator under 50 levels of recursion, a `threading` thread in a list comprehension and a
/// `_thread` thread in a lambda; each says its stack and sleeps in the function that said it.
const THREE_THREADS: &str = r#"
lock = _thread.allocate_lock()
reports = []
done = []
def park(frames):
    reports.append([_thread.get_ident(), native_id()] + frames)
    done.append(1)
    time.sleep(1000)
def grün_名前(depth):
    if depth:
        return grün_名前(depth - 1)
    return [sleeper() for _ in range(1)]
def sleeper():
    park(stack())
def numbers():
    while len(done) < 2:
        time.sleep(0.001)
    frames = stack()
    say('thread', _thread.get_ident(), native_id(), *frames)
    for report in reports:
        # park itself is missing from what its caller saw.
        say('thread', *(report[:2] + ['park', __file__] + report[2:]))
    say('pid', os.getpid())
    describe()
    # From here on the frames of this thread stay as they were said: all calls are into C.
    _out.write(b'ready\n'); _out.flush(); time.sleep(1000)
    yield 1
def recurse(depth):
    if depth:
        return recurse(depth - 1)
    return list(x for x in numbers())
class Method(object):
    def start(self):
        grün_名前(5)
threading.Thread(target=Method().start, daemon=True).start()
_thread.start_new_thread(lambda: sleeper(), ())
recurse(50)
"#;

/// The main thread's last words, said by C functions alone: its frames don't change any more.
const READY: &str = "_out.write(b'ready\\n'); _out.flush(); time.sleep(1000)";

fn frames(target: &Target, runtime: &Runtime, tstate: u64) -> Vec<String> {
    let mut codes = CodeCache::new();
    let stack = walk(&target.memory, runtime, &mut None, &mut codes, tstate).unwrap();
    stack
        .iter()
        .flat_map(|code| [codes[code].name.clone(), codes[code].file.clone()])
        .collect()
}

fn proven(target: &Target) -> (Runtime, Proof) {
    let runtime = target.find().unwrap();
    let proof = target.prove(&runtime).unwrap();
    assert_eq!(proof.main_tid, target.pid());
    assert_eq!(proof.layout.enabled, 1);
    // What the payload will do in each thread, with the words that it will be given.
    for thread in proof.threads.iter().filter(|thread| thread.is_bound) {
        let memory: &dyn crate::python::Memory = &target.memory;
        let word = |address: u64| memory.u64(address).unwrap();
        let mut slot = thread.thread_pointer + u64::from(proof.layout.tstate_offset);
        if proof.layout.tstate_second != wire::NONE {
            slot = word(slot) + u64::from(proof.layout.tstate_second);
        }
        assert_eq!(word(slot), thread.tstate);
        let id = word(thread.tstate + u64::from(proof.layout.tstate_thread_id));
        assert_eq!(id, thread.thread_pointer);
        let tid = memory.u32(thread.thread_pointer + u64::from(proof.tid_offset)).unwrap();
        assert!(target.tids().contains(&tid));
        assert_eq!(Some(tid), thread.tid);
    }
    assert_eq!(target.prove(&runtime).unwrap().layout, proof.layout);
    (runtime, proof)
}

#[test]
fn frames_and_recipe_are_the_programs_own() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(&python, THREE_THREADS);
        let (runtime, proof) = proven(&target);
        assert_eq!(runtime.version.hex.to_string(), target.one("hex"), "{version}");
        assert_eq!(proof.threads.len(), 3, "{version}");
        assert!(
            proof.threads.iter().all(|it| it.is_bound),
            "{version}: {:?}",
            proof.threads
        );
        assert!(proof.threads[0].is_main);
        assert_eq!(proof.threads.iter().filter(|it| it.is_main).count(), 1);
        assert_eq!(target.said["thread"].len(), 3);
        for said in &target.said["thread"] {
            let ident: u64 = said[0].parse().unwrap();
            let thread = proof.threads.iter().find(|it| it.thread_pointer == ident).unwrap();
            assert_eq!(thread.tid.unwrap().to_string(), said[1], "{version}");
            let frames = frames(&target, &runtime, thread.tstate);
            assert_eq!(frames, said[2..], "{version}");
            assert_eq!(frames.len() / 2, thread.depth, "{version}");
        }
        // Debian 12's and every other glibc since 2.4 on x86_64.
        assert_eq!(proof.tid_offset, 0x2d0, "{version}");
    }
}

#[test]
fn one_thread_and_fifty() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let alone = Target::start(&python, READY);
        let (_, proof) = proven(&alone);
        assert_eq!((proof.threads.len(), proof.threads[0].depth), (1, 1), "{version}");
        let fifty = Target::start(
            &python,
            &format!(
                "done = []\n\
                 def park(): done.append(1); time.sleep(1000)\n\
                 for _ in range(49): _thread.start_new_thread(park, ())\n\
                 while len(done) < 49: time.sleep(0.001)\n{READY}"
            ),
        );
        let (_, proof) = proven(&fifty);
        assert_eq!(proof.threads.len(), 50, "{version}");
        assert!(proof.threads.iter().all(|it| it.is_bound), "{version}");
        assert_eq!(proof.threads.iter().map(|it| it.depth).sum::<usize>(), 50, "{version}");
    }
}

/// Two threads that call, return, raise, recurse and run generators without a pause, and threads that start
/// and end all the time.
#[test]
fn a_busy_program_is_proven_while_it_runs() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(
            &python,
            r#"
def leaf(n):
    return [x * x for x in range(n % 5)]
def up(n):
    try:
        if n == 0:
            raise ValueError(n)
        return sum(g for g in (len(leaf(i)) for i in range(3))) + up(n - 1)
    except ValueError:
        return 0
def churn():
    n = 0
    while True:
        n += 1
        up(n % 40)
        eval(compile('up(%d)' % (n % 7), '<made %d>' % n, 'eval'))
def spawn():
    while True:
        t = threading.Thread(target=up, args=(20,))
        t.start()
        t.join()
for body in (churn, spawn):
    _thread.start_new_thread(body, ())
say('ready')
churn()
"#,
        );
        let runtime = target.find().unwrap();
        let mut depths = HashMap::new();
        // The threads take turns every 5 ms, so the first proofs may all meet the same one running.
        for round in 0..5000 {
            if round >= 50 && depths.len() > 3 {
                break;
            }
            let proof = target.prove(&runtime);
            let proof = proof.unwrap_or_else(|error| panic!("{version}, round {round}: {error}"));
            assert_eq!(proof.tid_offset, 0x2d0, "{version}");
            assert_eq!(proof.main_tid, target.pid());
            let main = proof.threads.iter().find(|it| it.is_main).unwrap();
            assert!(main.is_bound, "{version}: {:?}", proof.threads);
            *depths.entry(main.depth).or_insert(0) += 1;
        }
        assert!(depths.len() > 3, "{version}: the stack never changed: {depths:?}");
    }
}

/// `autoTSSkey` is the first key that Python makes; a library that made 40 before pushes it to the second
/// level of glibc's table.
#[test]
fn keys_beyond_the_first_block_are_found_through_the_second_level() {
    let Some(compiler) = super::interpreters::command("cc") else {
        return;
    };
    let directory = super::target::tempfile_directory();
    let source = directory.join("keys.c");
    let library = directory.join("keys.so");
    let code = "#include <pthread.h>\n\
                __attribute__((constructor)) static void take(void)\n\
                { pthread_key_t key; for (int i = 0; i < 40; i++) pthread_key_create(&key, 0); }\n";
    std::fs::write(&source, code).unwrap();
    let built = std::process::Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let program = format!(
            "{}\n_thread.start_new_thread(time.sleep, (1000,))\nsay('ready'); time.sleep(1000)",
            Target::prelude()
        );
        let mut command = std::process::Command::new(python);
        let target = Target::run(command.args(["-c", &program]).env("LD_PRELOAD", &library));
        let (_, proof) = proven(&target);
        assert_ne!(proof.layout.tstate_second, wire::NONE, "{version}");
        assert!(proof.threads[0].is_bound, "{version}");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

/// A forked child's only thread has its parent's kernel thread id in Python's notes, in versions that keep
/// one and don't renew it.
#[test]
fn a_forked_child_is_proven_too() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let parent = Target::start(
            &python,
            r#"
begun, begins = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(begins, b'x')
    time.sleep(1000)
os.read(begun, 1)
say('child', pid)
say('ready')
time.sleep(1000)
"#,
        );
        let child: u32 = parent.one("child").parse().unwrap();
        let memory = super::images::ProcMemory::open(child);
        let images = super::images::images(child);
        let result = crate::python::find(&memory, &images)
            .map(|runtime| crate::python::prove(&memory, &runtime, child, &[child]));
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        let proof = result.unwrap().unwrap();
        assert_eq!(proof.main_tid, child, "{version}");
        assert_eq!(proof.threads.len(), 1);
        assert_eq!(proof.threads[0].tid, Some(child));
    }
}

/// The proof is what stands between a wrong table and the target. (Up to 3.10 the tables differ in too
/// little to tell: the place of an int.)
#[test]
fn the_tables_of_other_versions_are_refused() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(&python, THREE_THREADS);
        let (mut runtime, _) = proven(&target);
        let right = runtime.layout;
        let minor = runtime.version.minor();
        for other in (8..=13).filter(|&other| other != minor && (other > 10 || minor > 10)) {
            let table = Layout::of(other).unwrap();
            // Where _PyRuntime has its things is proven by `find`, not here.
            runtime.layout = Layout {
                runtime: right.runtime,
                ..table
            };
            let is_proven = target.prove(&runtime).is_ok_and(|proof| proof.has_frames());
            assert!(!is_proven, "{version} as 3.{other}");
        }
        // One field at a time.
        let wrong = |change: &dyn Fn(&mut Layout)| {
            let mut runtime = runtime.clone();
            runtime.layout = right;
            change(&mut runtime.layout);
            target.prove(&runtime).is_ok_and(|proof| proof.has_frames())
        };
        let are_proven = [
            wrong(&|it| it.thread.thread_id += 8),
            wrong(&|it| it.thread.interp += 8),
            wrong(&|it| it.thread.frame += 8),
            wrong(&|it| it.frame.code += 8),
            wrong(&|it| {
                it.frame.instruction = Instruction::Index {
                    offset: 32,
                    unit_bytes: 1,
                    code_bytes: 48,
                }
            }),
            wrong(&|it| it.code.name -= 16),
            wrong(&|it| it.code.filename += 24),
            wrong(&|it| it.code.linetable += 8),
            wrong(&|it| it.unicode.length += 8),
            wrong(&|it| it.unicode.state += 4),
        ];
        assert!(are_proven.iter().all(|is| !is), "{version}: {are_proven:?}");
    }
}

/// With no Python frame anywhere nothing shows that the frames' places are right.
#[test]
fn threads_without_frames_prove_nothing() {
    for version in SUPPORTED {
        let Some(python) = interpreter(version) else { continue };
        let target = Target::start(&python, READY);
        let mut runtime = target.find().unwrap();
        // As if the innermost frame were where some null word of the thread state is.
        let memory: &dyn crate::python::Memory = &target.memory;
        let tstate = target.prove(&runtime).unwrap().threads[0].tstate;
        let null = (24..136)
            .step_by(8)
            .find(|&it| memory.u64(tstate + it) == Ok(0))
            .unwrap();
        runtime.layout.thread.frame = null as u32;
        runtime.layout.thread.cframe_frame = None;
        let proof = target.prove(&runtime).unwrap();
        assert!(!proof.has_frames(), "{version}");
        // The threads are known all the same.
        assert_eq!((proof.threads.len(), proof.main_tid), (1, target.pid()), "{version}");
    }
}
