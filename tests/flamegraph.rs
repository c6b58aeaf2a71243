//! The pages of `flamegraph` and `table` in a real browser, with their controls used as people use them.

use crate::support::browser::{Browser, HEIGHT, WIDTH};
use crate::support::{Dir, Target, Tool, interpreters, skip};
use serde_json::{Value, json};

/// A capture of `graph.py`: it went, and then went on.
struct Capture {
    dir: Dir,
    file: String,
}

fn capture() -> Option<Capture> {
    capture_with(&[])
}

/// The same with other flags.
fn capture_with(more: &[&str]) -> Option<Capture> {
    let Some(python) = interpreters::any() else {
        skip("no interpreter");
        return None;
    };
    let dir = Dir::new();
    let file = dir.file("memray-graph.bin");
    let mut target = Target::spawn(&python, "graph.py", &[] as &[&str]);
    let pid = target.pid_text();
    Tool::new(&[&["attach", &pid, "-o", &file, "-q"], more].concat()).succeed();
    target.ask("go", "done");
    // Memory over time, and windows of it, need some of it to pass.
    std::thread::sleep(std::time::Duration::from_millis(300));
    target.ask("more", "done");
    Tool::new(&["detach", &pid]).succeed();
    Some(Capture { dir, file })
}

impl Capture {
    fn page(&self, arguments: &[&str]) -> String {
        let page = self.dir.file("page.html");
        let all = [arguments, &["-f", "-o", &page, &self.file]].concat();
        Tool::new(&all).succeed();
        page
    }

    /// Bytes of all stacks, from another report.
    fn total(&self, mode: &[&str]) -> u64 {
        let all = [&["transform", "folded", "-o", "-", &self.file], mode].concat();
        let text = Tool::new(&all).succeed().stdout;
        let bytes = text
            .lines()
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        bytes.sum()
    }
}

/// Nothing was loaded, nothing ran that is not the page's own, and nothing failed.
fn assert_harmless(browser: &mut Browser) {
    assert_eq!(browser.complaints, [] as [String; 0]);
    assert_eq!(
        browser.evaluate("document.images.length + document.scripts.length"),
        json!(2)
    );
    let title = browser.evaluate("document.title");
    assert!(
        title.as_str().expect("a title").ends_with("memray-graph.bin"),
        "{title}"
    );
    assert_eq!(
        browser.evaluate("performance.getEntriesByType('resource').length"),
        json!(0)
    );
}

/// The middle of the first frame that is drawn of this function.
fn place_of(browser: &mut Browser, function: &str) -> (f64, f64) {
    let script = format!(
        "(() => {{ const box = view.rows.flat().find((box) => box.frame.location >= 0 && \
         model.name(box.frame.location) === {function:?}); const chart = view.chart.getBoundingClientRect(); \
         return [chart.left + box.x + box.width / 2, chart.top + view.y(box.frame.depth) - view.chart.scrollTop + 9]; }})()"
    );
    let place = browser.evaluate(&script);
    (place[0].as_f64().expect("x"), place[1].as_f64().expect("y"))
}

fn bytes(browser: &mut Browser) -> u64 {
    browser.evaluate("view.tree.root.bytes").as_u64().expect("bytes")
}

fn text(browser: &mut Browser, id: &str) -> String {
    let text = browser.evaluate(&format!("document.getElementById({id:?}).textContent"));
    text.as_str().expect("a text").to_owned()
}

const FOCUS: &str = "view.focus.location < 0 ? 'all' : model.name(view.focus.location)";

#[test]
fn native_and_aggregated_captures_have_pages_too() {
    for (more, inner) in [("--native", "bytearray"), ("--aggregate", "go")] {
        let Some(capture) = capture_with(&[more]) else { return };
        for mode in [&[][..], &["--leaks"]] {
            let page = capture.page(&[&["flamegraph"], mode].concat());
            let Some(mut browser) = Browser::open(&page) else {
                return;
            };
            assert_eq!(bytes(&mut browser), capture.total(mode), "{more} {mode:?}");
            assert_harmless(&mut browser);
            // What allocated and who called it are there, and can be found.
            for function in [inner, "leaf"] {
                browser.press("/");
                browser.insert(function);
                let marked = browser.evaluate("view.marked.reduce((a, b) => a + b)");
                assert!(marked.as_u64() > Some(0), "{function} with {more} {mode:?}: {marked}");
                browser.press("Escape");
            }
        }
    }
}

#[test]
fn flame_graphs_are_zoomed_searched_and_turned() {
    let Some(capture) = capture() else { return };
    let page = capture.page(&["flamegraph"]);
    let Some(mut browser) = Browser::open(&page) else {
        return;
    };
    let total = capture.total(&[]);
    assert_eq!(bytes(&mut browser), total);
    assert!(total >= 9_500_000);
    assert_harmless(&mut browser);

    // The tip has the function, its place and the line as the capture has it, all of it text.
    let (x, y) = place_of(&mut browser, "leaf");
    browser.mouse("mouseMoved", x, y);
    let tip = text(&mut browser, "tip");
    assert!(tip.contains("leaf") && tip.contains("graph.py:16"), "{tip}");
    assert!(tip.contains("kept.append(bytearray(size))  # <b>the line</b>"), "{tip}");

    let (x, y) = place_of(&mut browser, "second");
    browser.click(x, y);
    assert_eq!(browser.evaluate(FOCUS), json!("second"));
    assert_eq!(
        browser.evaluate("document.getElementById('reset').disabled"),
        json!(false)
    );
    browser.press("Escape");
    assert_eq!(browser.evaluate(FOCUS), json!("all"));

    browser.press("/");
    browser.insert("second");
    let found = text(&mut browser, "found");
    assert!(found.starts_with("1.500MB, "), "{found}");
    assert_eq!(browser.evaluate("view.marked.reduce((a, b) => a + b)"), json!(2));
    browser.press("Escape");

    // Inverted, what allocates is below the root.
    browser.press("i");
    let outermost = "model.name(view.tree.children(view.tree.root)[0].location)";
    assert_eq!(browser.evaluate(outermost), json!("leaf"));
    assert_eq!(bytes(&mut browser), total);
    let callers = "view.tree.children(view.tree.children(view.tree.root)[0]).map((frame) => frame.bytes)";
    let callers = browser.evaluate(callers);
    let first = &callers[0];
    assert!(first.as_u64().expect("bytes") >= 6_000_000, "{callers}");
    browser.press("i");

    // With the root below, it is drawn at the bottom; a click finds it there.
    browser.press("f");
    let (x, y) = place_of(&mut browser, "second");
    browser.click(x, y);
    assert_eq!(browser.evaluate(FOCUS), json!("second"));
    let root = browser.evaluate("view.y(0)").as_f64().expect("y");
    assert_eq!(Some(root), browser.evaluate("view.height - 18").as_f64());
    browser.click_on("#reset");
    assert_eq!(browser.evaluate(FOCUS), json!("all"));
    browser.press("f");

    // By keys alone.
    browser.evaluate("view.canvas.focus()");
    browser.press("ArrowDown");
    browser.press("ArrowDown");
    browser.press("Enter");
    assert_eq!(browser.evaluate("view.focus.depth"), json!(2));
    browser.press("Escape");

    // Threads add up, whatever they are called.
    assert_eq!(browser.evaluate("data.threads.length"), json!(2));
    let choose = |browser: &mut Browser, thread: i32| -> u64 {
        let script = format!(
            "(() => {{ const choice = document.getElementById('thread'); choice.value = {thread}; \
             choice.dispatchEvent(new Event('change')); return 0; }})()"
        );
        browser.evaluate(&script);
        bytes(browser)
    };
    let threads = [choose(&mut browser, 0), choose(&mut browser, 1)];
    assert!(
        threads[0] + threads[1] == total && threads.iter().min() >= Some(&3_000_000),
        "{threads:?}"
    );
    assert_eq!(choose(&mut browser, -1), total);
    assert_eq!(
        browser.evaluate("document.querySelectorAll('#thread *').length"),
        json!(3)
    );
    assert_harmless(&mut browser);
}

#[test]
fn flags_choose_what_the_page_begins_with() {
    let Some(capture) = capture() else { return };
    let page = capture.page(&[
        "flamegraph",
        "--leaks",
        "--inverted",
        "--split-threads",
        "--confidential-files",
        "all",
    ]);
    let Some(mut browser) = Browser::open(&page) else {
        return;
    };
    assert_eq!(bytes(&mut browser), capture.total(&["--leaks"]));
    assert_eq!(
        browser.evaluate("document.getElementById('invert').checked"),
        json!(true)
    );
    // The last frame of the inverted stack is the thread.
    browser.press("i");
    let outermost = browser.evaluate("view.tree.children(view.tree.root).map((frame) => model.name(frame.location))");
    let is_thread = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("thread "));
    assert!(
        outermost.as_array().expect("names").iter().all(is_thread),
        "{outermost}"
    );
    assert_eq!(
        browser.evaluate("data.sources.some((source) => source > 0)"),
        json!(false)
    );
    assert_harmless(&mut browser);
}

#[test]
fn ranges_of_time_are_dragged() {
    let Some(capture) = capture() else { return };
    for mode in [&["--temporal"][..], &["--temporal", "--leaks"]] {
        let page = capture.page(&[&["flamegraph"], mode].concat());
        let Some(mut browser) = Browser::open(&page) else {
            return;
        };
        let total = capture.total(&mode[1..]);
        assert_eq!(bytes(&mut browser), total, "{mode:?}");
        let count = browser.evaluate("data.windows.count").as_u64().expect("a count");
        assert!((20..=512).contains(&count), "{count}");
        // From the left end to the middle: the first allocations, none of which was freed by then.
        let plot = browser.evaluate(
            "(() => { const box = document.getElementById('plot').getBoundingClientRect(); \
             return [box.left, box.width, box.top + box.height / 2]; })()",
        );
        let [left, width, y] = [0, 1, 2].map(|index| plot[index].as_f64().expect("a number"));
        let when = "Math.min(...data.memory.times.filter((_, index) => data.memory.heap[index] > 9500000)) - data.windows.start_ms";
        let share = browser
            .evaluate(&format!("({when} + 100) / plot.length"))
            .as_f64()
            .expect("a share");
        browser.drag((left + 1.0, y), (left + width * share, y));
        let range = browser.evaluate("[plot.first, plot.last]");
        assert!(range[0] == json!(0) && range[1].as_u64() < Some(count - 1), "{range}");
        let held = bytes(&mut browser);
        assert!((9_500_000..12_000_000).contains(&held), "{mode:?}: {held}");
        // By the slider: only the end.
        let script = "(() => { const from = document.getElementById('from'); plot.choose(plot.first, data.windows.count - 1); \
                      from.value = data.windows.count - 1; from.dispatchEvent(new Event('input')); return 0; })()";
        browser.evaluate(script);
        let held = bytes(&mut browser);
        assert!(held < 9_500_000, "{mode:?}: {held}");
        assert_harmless(&mut browser);
    }
}

/// 100,000 stacks, deep ones among them, are weighed, laid out and searched without freezing the page.
#[test]
fn a_hundred_thousand_stacks_are_drawn_in_time() {
    const STACKS: usize = 100_000;
    let Some(capture) = capture() else { return };
    let page = capture.page(&["flamegraph"]);
    let html = std::fs::read_to_string(&page).expect("the page");
    let (head, rest) = html.split_once("id=\"data\">").expect("data");
    let (_, tail) = rest.split_once("</script>").expect("its end");
    // A random tree: every stack is one of ten thousand trunks of depth 20, and a way of its own below.
    let (mut steps, mut places, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut trunks = Vec::new();
    for number in 0..STACKS {
        let is_new = number % 10 == 0;
        let mut node = if is_new {
            0
        } else {
            trunks[random(trunks.len() as u64) as usize]
        };
        for depth in 0..if is_new { 20 } else { 4 } {
            steps.push(steps.len() + 1 - node);
            places.push(random(2000));
            node = steps.len();
            if is_new && depth == 15 {
                trunks.push(node);
            }
        }
        leaves.push(node);
    }
    let weights: Vec<u64> = leaves.iter().map(|_| 1 + random(10_000)).collect();
    let names: Vec<String> = (0..2000).map(|number| format!("function_{number}")).collect();
    let data = json!({
        "subject": {"capture": "huge", "command_line": "", "pid": 1, "start_ms": 0, "end_ms": 0, "mode": "leaks", "notes": [], "tool": ""},
        "inverted": false, "strings": names, "functions": (0..2000).collect::<Vec<_>>(), "files": vec![0; 2000],
        "lines": vec![1; 2000], "sources": vec![0; 2000], "kinds": vec![16; 2000], "steps": steps, "node_locations": places,
        "threads": ["thread 1"], "memory": {"times": [], "rss": [], "heap": []},
        "rows": {"nodes": leaves, "threads": vec![0; STACKS], "bytes": weights, "blocks": vec![1; STACKS]},
    });
    std::fs::write(&page, format!("{head}id=\"data\">{data}</script>{tail}")).expect("write the page");
    let Some(mut browser) = Browser::open(&page) else {
        return;
    };
    assert_eq!(bytes(&mut browser), weights.iter().sum::<u64>());
    for action in [
        "update()",
        "view.draw()",
        "(document.getElementById('search').value = 'function_77', search())",
        "(document.getElementById('invert').checked = true, rebuild())",
        "zoom(view.tree.children(view.tree.root)[0])",
    ] {
        let script =
            format!("(() => {{ const begin = performance.now(); {action}; return performance.now() - begin; }})()");
        let ms = browser.evaluate(&script).as_f64().expect("milliseconds");
        eprintln!("{action}: {ms:.0} ms");
        // Measured: at most 400 ms on a busy machine.
        assert!(ms < 10_000.0, "{action}: {ms} ms");
    }
    // Only what can be seen is drawn.
    let drawn = browser.evaluate("view.drawnCount").as_u64().expect("a count");
    assert!(drawn < u64::from(WIDTH * HEIGHT / 18), "{drawn}");
    assert_eq!(browser.complaints, [] as [String; 0]);
}

#[test]
fn tables_are_sorted_and_searched() {
    let Some(capture) = capture() else { return };
    let page = capture.page(&["table", "--split-threads"]);
    let Some(mut browser) = Browser::open(&page) else {
        return;
    };
    let column = |browser: &mut Browser, number: usize| -> Vec<String> {
        let script = format!(
            "[...document.querySelectorAll('#rows tr td:nth-child({number})')].map((cell) => cell.textContent)"
        );
        let cells = browser.evaluate(&script);
        let cells = cells.as_array().expect("cells").iter();
        cells.map(|cell| cell.as_str().expect("a text").to_owned()).collect()
    };
    let sizes = column(&mut browser, 4);
    assert!(sizes.len() >= 4 && sizes[0].ends_with("MB"), "{sizes:?}");
    assert!(column(&mut browser, 1)[0].starts_with("leaf at "));
    browser.click_on("#titles th:nth-child(4) button");
    let mut turned = column(&mut browser, 4);
    turned.reverse();
    assert_eq!(turned.first(), sizes.first());
    browser.click_on("#search");
    browser.insert("GRAPH.PY:16");
    let threads = column(&mut browser, 2);
    assert!(threads.len() >= 2 && threads.len() < sizes.len(), "{threads:?}");
    assert!(
        threads.iter().any(|thread| thread.contains("</script><img")),
        "{threads:?}"
    );
    assert!(text(&mut browser, "count").starts_with(&format!("{} rows, ", threads.len())));
    assert_harmless(&mut browser);
}
