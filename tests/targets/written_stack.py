"""How the test programs write down a stack."""


def stack_of(frame, leaf_line):
    """Function, file and line of each frame, innermost first; the innermost at this line."""
    frames = []
    while frame is not None:
        line = frame.f_lineno if frames else leaf_line
        frames.append("%s\x1f%s\x1f%d" % (frame.f_code.co_name, frame.f_code.co_filename, line))
        frame = frame.f_back
    return "\x1e".join(frames)
