//! Whose function a slot stands for, where a process has more than one of a name: nobody is ever led to another
//! allocator than before, and what the program put into a pointer itself stays there (hazards 1 and 2).

use crate::support::libraries::{Library, Native, count};
use crate::support::{Dir, interpreters, skip_optional};

/// A pointer with a default that the program has replaced is the program's: libxml2's `xmlFree`, for one.
#[test]
fn a_pointer_that_the_program_has_replaced_stays() {
    let dir = Dir::new();
    let Some(path) = Library::new("pointers.c", &[]).build(&dir, "pointers.so") else {
        return;
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load p {path} lazy"));
    target.ask("call p choose");
    target.attach();
    assert_eq!(
        target.ask("call p chosen 71001"),
        1,
        "the program's own functions are gone"
    );
    assert_eq!(target.ask("call p table 72001"), 0);
    target.detach();
    assert_eq!(target.ask("call p chosen 71002"), 1);
    let Some(dump) = target.dump() else { return };
    assert_eq!(count(&dump, 72001), (1, 1), "through a table in data");
    assert_eq!(count(&dump, 72002), (1, 1), "through a constant table");
    assert_eq!(
        count(&dump, 71001 + 32),
        (1, 0),
        "what the program's function asked for"
    );
    target.finish();
}

/// The distribution's interpreter is a program that is not position-independent, whose addresses may stand for the C
/// library's: but not every address in it does (hazard 2).
#[test]
fn a_pointer_to_a_function_of_the_program_stays() {
    let dir = Dir::new();
    let Some(path) = Library::new("pointers.c", &["-ldl"]).build(&dir, "pointers.so") else {
        return;
    };
    for (python, dir) in [(interpreters::any(), Dir::new()), (interpreters::system(), dir)] {
        let Some(mut target) = python.and_then(|python| Native::with(dir, &python)) else {
            continue;
        };
        let names = "PyMem_RawMalloc PyMem_RawFree";
        target.ask(&format!("load p {path} lazy"));
        assert_eq!(target.ask(&format!("call p choose_foreign {names}")), 1);
        target.attach();
        assert_eq!(target.ask(&format!("call p chosen_are {names}")), 1);
        target.detach();
        assert_eq!(target.ask(&format!("call p chosen_are {names}")), 1);
        target.finish();
    }
}

/// A library that exports nothing, as most programs do not.
#[test]
fn a_library_without_an_export() {
    let dir = Dir::new();
    let Some(path) = Library::new("hidden.c", &[]).build(&dir, "hidden.so") else {
        return;
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load h {path} now"));
    target.attach();
    assert_eq!(target.ask("address HIDDEN_FUNCTION 75001"), 1);
    target.detach();
    let Some(dump) = target.dump() else { return };
    assert_eq!(count(&dump, 75001), (1, 1));
    target.finish();
}

/// Operands of instructions are not written while the program may execute them: such calls go on unseen. Tables in
/// read-only data are seen, relocated text or not.
#[test]
fn text_relocations() {
    let dir = Dir::new();
    let flags = [
        "-fno-pic",
        "-mcmodel=large",
        "-fno-plt",
        "-Wl,-z,notext",
        "-fcf-protection=none",
    ];
    let built = Library::new("operands.c", &flags).try_build(&dir, "operands.so");
    let constants = Library::new("pointers.c", &["-fno-pic", "-mcmodel=large", "-Wl,-z,notext"]);
    let built = built.zip(constants.try_build(&dir, "constants.so"));
    let (operands, constants) = match built {
        None => return,
        Some((Ok(operands), Ok(constants))) => (operands, constants),
        Some((Err(said), _) | (_, Err(said))) => return skip_optional("text relocations", &said),
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load o {operands} now"));
    target.ask(&format!("load c {constants} now"));
    target.attach();
    assert_eq!(target.ask("call o both 76001"), 1);
    target.ask(&format!("load n {operands} now"));
    assert_eq!(target.ask("call n both 76001"), 1);
    assert_eq!(target.ask("call c table 77001"), 0);
    target.detach();
    assert_eq!(target.ask("call o both 76001"), 1);
    assert_eq!(target.ask("call c table 77001"), 0);
    let Some(dump) = target.dump() else { return };
    assert_eq!(count(&dump, 76001), (0, 0), "README: what it does not see");
    assert_eq!((count(&dump, 77001), count(&dump, 77002)), ((1, 1), (1, 1)));
    target.finish();
}

/// In the window, too.
#[test]
fn a_pointer_that_is_replaced_in_the_window_stays() {
    let dir = Dir::new();
    let Some(path) = Library::new("pointers.c", &[]).build(&dir, "pointers.so") else {
        return;
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load p {path} lazy"));
    target.attach();
    target.ask("call p choose");
    // Loads something, so that all slots are looked at again.
    target.ask(&format!("load q {path} lazy"));
    assert_eq!(target.ask("call p chosen 71001"), 1);
    target.detach();
    assert_eq!(target.ask("call p chosen 71002"), 1);
    target.finish();
}

/// An absolute relocation with an addend is no pointer to the function.
#[test]
fn addends_are_left_alone() {
    let dir = Dir::new();
    let Some(path) = Library::new("pointers.c", &["-ldl"]).build(&dir, "pointers.so") else {
        return;
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load p {path} now"));
    assert_eq!(target.ask("call p near_by_real"), 1);
    target.attach();
    assert_eq!(
        target.ask("call p near_by_real"),
        1,
        "a pointer near the function was changed"
    );
    target.detach();
    assert_eq!(target.ask("call p near_by_real"), 1);
    target.finish();
}

/// Holds a block by a function that is bound before the window, and frees it by one that is bound in it. Where those
/// are another allocator's, a wrong guess aborts the target.
fn held_and_let_go(build: &[&str], kind: &str, own: bool) {
    let dir = Dir::new();
    let flags = [&["-Wl,-z,lazy"], build].concat();
    let Some(path) = Library::new("holder.c", &flags).build(&dir, "holder.so") else {
        return;
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load h {path} {kind}"));
    assert_eq!(target.ask("call h hold 81001"), 1);
    target.attach();
    assert_eq!(target.ask("call h let_go"), 0);
    assert_eq!(target.ask("call h hold 82001"), 1);
    // Looked at again with both bound.
    target.ask(&format!("load i {path} {kind}"));
    assert_eq!(target.ask("call i both 83001"), 1);
    assert_eq!(target.ask("call i both 83002"), 1);
    target.ask("python 10 84001");
    target.detach();
    assert_eq!(target.ask("call h let_go"), 0);
    assert_eq!(target.ask("call h both 85001"), 1);
    if own {
        assert_eq!(target.ask("call h own_mallocs"), target.ask("call h own_frees"));
        assert!(target.ask("call h own_frees") > 0, "its own functions were not called");
    } else if build.contains(&"-DOWN_ALLOCATOR") {
        assert_eq!(target.ask("call h own_mallocs"), 0);
    }
    let Some(dump) = target.dump() else { return };
    let expected = if own || kind == "space" { (0, 0) } else { (1, 1) };
    for size in [83001, 83002] {
        assert_eq!(count(&dump, size), expected, "{size} bytes");
    }
    assert_eq!(count(&dump, 82001).0, expected.0);
    assert_eq!(count(&dump, 84002).0, 10, "Python's own");
    target.finish();
}

#[test]
fn an_ordinary_library_is_seen() {
    held_and_let_go(&[], "lazy", false);
}

/// Its malloc is hidden behind the C library's, which comes first in everybody's scope.
#[test]
fn a_library_whose_own_malloc_is_interposed() {
    held_and_let_go(&["-DOWN_ALLOCATOR"], "lazy", false);
}

#[test]
fn a_deeply_bound_library_with_its_own_malloc() {
    held_and_let_go(&["-DOWN_ALLOCATOR"], "deep", true);
}

#[test]
fn a_symbolic_library_with_its_own_malloc() {
    // DT_SYMBOLIC without binding at link time.
    held_and_let_go(&["-DOWN_ALLOCATOR", "-Wl,-Bsymbolic"], "lazy", true);
}

#[test]
fn a_library_in_a_namespace_of_its_own() {
    held_and_let_go(&[], "space", false);
}

/// A library that asks for a version of malloc that only another library of its own has.
#[test]
fn a_version_of_its_own() {
    let dir = Dir::new();
    let versions = dir.file("versions");
    std::fs::write(
        &versions,
        "LAB_1 { global: malloc; free; own_mallocs; own_frees; local: *; };",
    )
    .expect("write");
    let provider = Library::new("holder.c", &["-DOWN_ALLOCATOR", "-Wl,-soname,provider.so"])
        .with(&format!("-Wl,--version-script={versions}"))
        .build(&dir, "provider.so");
    let Some(provider) = provider else { return };
    let holder = Library::new("holder.c", &["-Wl,-z,lazy,--no-as-needed", "-Wl,-rpath,$ORIGIN"])
        .with(&provider)
        .build(&dir, "holder.so");
    let Some(holder) = holder else { return };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load h {holder} lazy"));
    target.ask(&format!("load p {provider} lazy"));
    assert_eq!(target.ask("call h hold 81001"), 1);
    assert_eq!(target.ask("call p own_mallocs"), 1, "the version script has no effect");
    target.attach();
    assert_eq!(target.ask("call h let_go"), 0);
    assert_eq!(target.ask("call h both 82001"), 1);
    target.detach();
    assert_eq!(target.ask("call h both 83001"), 1);
    assert_eq!(target.ask("call p own_mallocs"), 3);
    assert_eq!(target.ask("call p own_frees"), 3);
    target.finish();
}

/// C++'s operators are libstdc++'s, which calls malloc and free through slots of its own.
#[test]
fn operators_new_and_delete() {
    let dir = Dir::new();
    let library = Library::new("operators.c", &["-l:libstdc++.so.6"]);
    let path = match library.try_build(&dir, "operators.so") {
        None => return,
        Some(Err(said)) => return skip_optional("libstdc++", &said),
        Some(Ok(path)) => path,
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.attach();
    target.ask(&format!("load c {path} lazy"));
    target.ask("call c new_and_delete 91001");
    target.detach();
    let Some(dump) = target.dump() else { return };
    for size in 91001..=91004 {
        assert_eq!(count(&dump, size), (1, 1), "{size} bytes");
    }
    target.finish();
}

/// A sized free is one free, though it calls free in turn.
#[test]
fn sized_frees() {
    let dir = Dir::new();
    let Some(provider) = Library::new("sized.c", &["-DPROVIDER"]).build(&dir, "provider.so") else {
        return;
    };
    let Some(user) = Library::new("sized.c", &["-Wl,-z,lazy"]).build(&dir, "user.so") else {
        return;
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load p {provider} global"));
    target.ask(&format!("load u {user} lazy"));
    target.attach();
    target.ask("call u sized 95001");
    target.ask("call u sized 96001");
    target.detach();
    target.ask("call u sized 97001");
    let Some(dump) = target.dump() else { return };
    for size in [95001, 64 * 95001, 95002, 96001, 64 * 96001, 96002] {
        assert_eq!(count(&dump, size), (1, 1), "{size} bytes");
    }
    // Each address is freed once for each time that it was allocated.
    dump.assert_no_address_twice_alive();
    let is_of_block = |size: u64| {
        dump.records
            .iter()
            .find(|record| record.size == size)
            .map(|it| it.address)
    };
    for size in [64 * 95001, 64 * 96001] {
        let address = is_of_block(size);
        let first = dump.records.iter().position(|it| it.size == size).expect("it is there");
        let next = dump.records[first + 1..]
            .iter()
            .filter(|it| Some(it.address) == address);
        let frees = next.take_while(|it| !it.is_allocation()).count();
        assert_eq!(frees, 1, "{size} bytes were freed {frees} times");
    }
    target.finish();
}

/// What the dynamic linker hands out by name is the function itself, in the window as ever.
#[test]
fn what_dlsym_finds_is_the_real_function() {
    let dir = Dir::new();
    let Some(path) = Library::new("pointers.c", &["-ldl"]).build(&dir, "pointers.so") else {
        return;
    };
    let Some(mut target) = Native::start(dir) else { return };
    target.ask(&format!("load p {path} now"));
    let before = target.ask("call p found malloc");
    target.attach();
    assert_eq!(target.ask("call p found malloc"), before);
    assert_ne!(target.ask("call p taken"), before, "the slot was not hooked");
    target.detach();
    assert_eq!(target.ask("call p taken"), before);
    target.finish();
}
