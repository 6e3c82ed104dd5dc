"""Each private interface of TensorFlow is there and does what is needed of it: an upgrade may break one."""

import ast
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import tensorflow_internals as internals

PACKAGE = pathlib.Path(internals.__file__).parent
ONE = tf.TensorSpec([], tf.float32)


def test_nothing_private_of_tensorflow_is_imported_elsewhere():
    private = ("tensorflow.python", "tensorflow.core", "keras.src")
    for file in PACKAGE.rglob("*.py"):
        if file.name not in ("tensorflow_internals.py", "keras_internals.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else []
                modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not [name for name in modules if name and name.startswith(private)], file


def test_recording_is_stopped_and_taken_up_again():
    x = tf.Variable(3.0)
    with tf.GradientTape(persistent=True) as tape:
        with internals.stop_recording():
            assert internals.recording_stopped() and not internals.could_record()
            unseen = x * x
            with internals.recording():
                assert internals.could_record() and not internals.recording_stopped()
                seen = x * x
            assert internals.recording_stopped()
        assert internals.could_record()
    assert not internals.could_record()
    assert tape.gradient(unseen, x) is None
    assert tape.gradient(seen, x) == 6.0


def test_a_followed_tensor_is_told_from_others():
    x, constant, variable = tf.constant(1.0), tf.constant(1.0), tf.Variable(1.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        assert internals.is_followed([constant, 2 * x])
        assert not internals.is_followed([constant])
        tf.identity(variable)
        assert internals.is_followed([variable.handle])
        with internals.stop_recording():
            assert not internals.is_followed([x])


def test_variables_are_noticed_when_read_also_inside_a_function_called_again():
    read, still = tf.Variable(2.0), tf.Variable(3.0, trainable=False)
    called = tf.function(lambda: read * still)
    called()
    with tf.GradientTape(), internals.watching_variables() as watcher:
        called()
    assert [v is read for v in watcher.watched_variables()] == [True]


def _gradient_of(look, tape_of, sources, also=()):
    """`look()` as called by a gradient function inside `tape.gradient(..., sources)`."""
    found = []

    @tf.custom_gradient
    def function(*values):
        def gradient(upstream):
            found.append(look())
            return [upstream for _ in values]

        return tf.add_n(values), gradient

    with tf.GradientTape() as tape:
        tape_of(tape)
        y = function(*(tf.convert_to_tensor(s) for s in (*sources, *also)))
    tape.gradient(y, sources)
    return found


def test_the_sources_of_the_gradient_being_carried_out_are_known():
    x, asked, unasked = tf.constant(1.0), tf.Variable(1.0), tf.Variable(1.0)
    (found,) = _gradient_of(
        internals.sources_of_running_gradient, lambda tape: tape.watch(x), [x, asked], also=[unasked]
    )
    assert {id(one) for one in found} == {id(x), id(asked.handle)}
    assert internals.sources_of_running_gradient() is None


def test_a_compiled_functions_gradient_has_no_sources_to_look_up():
    found = []

    @tf.custom_gradient
    def function(x):
        def gradient(upstream):
            found.append(internals.sources_of_running_gradient())
            return upstream

        return x + 1, gradient

    x = tf.Variable(1.0)
    compiled = tf.function(lambda: function(x))
    with tf.GradientTape() as tape:
        y = compiled()
    assert found[-1:] == [None]
    assert tape.gradient(y, x) == 1.0


def test_tangents_are_noticed():
    x = tf.constant(1.0)
    assert not internals.has_tangents([x])
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)):
        assert internals.has_tangents([tf.constant(1.0), x * 2])
        assert not internals.has_tangents([tf.constant(1.0)])


def test_eager_operations_are_looked_at_and_those_of_graphs_are_not():
    x, seen = tf.constant(2.0), []
    with internals.watching_operations(lambda inputs, outputs: seen.append((inputs, outputs))):
        y = x * x
        tf.function(lambda: tf.constant(1.0) + 1.0).get_concrete_function()
    tf.identity(x)
    ((inputs, outputs),) = seen
    assert [one is x for one in inputs] == [True, True]
    assert outputs[0] is y or outputs[0] == y


@pytest.mark.parametrize("xla", [True, False])
def test_a_graph_for_xla_is_known_from_inside_and_from_a_function_within(xla):
    found = []

    def look(x):
        found.append(internals.compiled_by_xla(tf.compat.v1.get_default_graph()))
        return x + 1

    tf.function(lambda x: look(tf.function(look)(x)), jit_compile=xla)(tf.constant(1.0))
    assert found == [xla, xla]


def test_a_function_is_kept_out_of_line():
    made = tf.function(lambda x: x + 1, experimental_attributes=internals.NOT_INLINED).get_concrete_function(ONE)
    assert made.function_def.attr["_noinline"].b


def test_a_model_being_saved_is_known(tmp_path):
    found = []

    @tf.custom_gradient
    def function(x):
        def gradient(upstream):
            found.append(internals.saving())
            return upstream

        return x + 1, gradient

    module = tf.Module()
    module.call = tf.function(function, input_signature=[ONE])
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(tmp_path), options=options)
    assert found and all(found) and not internals.saving()


def test_pfor_is_known_and_told_to_loop():
    """`StringLength` has no way to be vectorised: only the loop makes it possible."""
    found = []

    def length(text, loop):
        found.append(internals.in_pfor_body(tf.compat.v1.get_default_graph()))
        result = tf.function(tf.strings.length, autograph=False)(text)
        if loop:
            internals.let_pfor_loop(result.op)
        return result

    texts = tf.constant(["one", "three"])
    with pytest.raises(ValueError, match="No pfor vectorization"):
        tf.vectorized_map(lambda text: length(text, False), texts, fallback_to_while_loop=False)
    lengths = tf.vectorized_map(lambda text: length(text, True), texts, fallback_to_while_loop=False)
    assert lengths.numpy().tolist() == [3, 5]
    assert all(found)
    assert not internals.in_pfor_body(tf.Graph())


def test_what_a_function_captures_is_known():
    x, variable = tf.constant(2.0), tf.Variable(3.0)
    graph = tf.function(lambda y: x * y * variable).get_concrete_function(ONE).graph
    taken = internals.captures(graph)
    assert {id(outer) for outer, _ in taken} == {id(x), id(variable.handle)}
    assert all(inner.graph is graph for _, inner in taken)


def test_a_backward_function_captures_little_and_takes_other_captures():
    """Of x, two identities of it, a constant and a tensor that is only measured, x alone is captured, and sizes."""
    row, made = tf.TensorSpec([None], tf.float32), []

    def forward(x):
        same = tf.identity(tf.identity(x))
        with tf.GradientTape() as tape:
            tape.watch(same)
            square = tf.identity(same) * same * tf.constant(1.0)
        measured = tf.concat([x, x, x], 0)

        def back(upstream):
            size = tf.cast(tf.size(measured), tf.float32)
            return [tape.gradient(square, same, upstream), size * upstream]

        made.append(internals.BackwardFunction(back, [row]))
        return list(made[0].captures)

    kept = tf.function(forward, autograph=False).get_concrete_function(row)
    (back,) = made
    assert sorted({one.dtype.name for one in back.captures}) == ["float32", "int32"]
    assert [one.dtype for one in back.captures].count(tf.float32) == 1
    for x in ([2.0], [1.0, -3.0]):
        upstream = tf.fill([len(x)], 0.5)
        slope, scaled = back([upstream], kept(tf.constant(x)))
        assert slope.numpy().tolist() == x  # 0.5 * 2 x
        assert scaled.numpy().tolist() == [0.5 * 3 * len(x)] * len(x)


def test_what_is_built_reads_by_way_of_the_graph_that_has_read():
    x, other = tf.constant(2.0), tf.constant(3.0)
    forward = tf.function(lambda y: x * y).get_concrete_function(ONE).graph
    ((_, inner),) = internals.captures(forward)

    def build(y):
        with internals.reads_by_way_of(forward):
            return x * other * y

    with forward.as_default():
        taken = internals.captures(tf.function(build, autograph=False).get_concrete_function(ONE).graph)
    assert any(outer is inner for outer, _ in taken)
    assert not any(outer is x for outer, _ in taken)


def test_a_gradient_flows_to_what_is_read_by_way_of_another_graph():
    """The derivative of x * y by x inside a function that reads x through the graph around it is y."""
    x = tf.constant(2.0)

    @tf.function(autograph=False)
    def outer(y):
        x_here = x + 0.0
        graph = tf.compat.v1.get_default_graph()

        @tf.function(autograph=False)
        def inner(y):
            with internals.reads_by_way_of(graph), tf.GradientTape() as tape:
                tape.watch(x)
                return tape.gradient(x * y, x)

        return inner(y) + 0 * x_here

    assert np.isclose(outer(tf.constant(5.0)), 5.0)
