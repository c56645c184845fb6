"""graffiti.data.load: the forms it reads and the sentences for what it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti import data


def test_npy_npz_and_limit(tmp_path):
    images, labels = np.arange(24.0).reshape(6, 4), np.arange(6)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    np.savez(tmp_path / "c.npz", x=images)
    assert data.load(tmp_path / "a.npy").labels is None
    loaded = data.load(tmp_path / "b.npz", limit=4)
    assert len(loaded) == 4
    np.testing.assert_array_equal(loaded.inputs, images[:4])
    np.testing.assert_array_equal(loaded.labels, labels[:4])
    np.testing.assert_array_equal(data.load(tmp_path / "c.npz").inputs, images)


def test_records(tmp_path):
    import tensorflow as tf

    images = np.random.RandomState(0).randint(0, 256, (3, 5, 5, 3)).astype(np.uint8)
    for shard in range(2):
        with tf.io.TFRecordWriter(str(tmp_path / f"train-0000{shard}-of-00002")) as writer:
            for index in range(3):
                feature = {
                    "image/encoded": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[tf.io.encode_png(images[index]).numpy()])
                    ),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[shard * 3 + index])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    loaded = data.load(tmp_path, split="train")
    np.testing.assert_array_equal(loaded.labels, np.arange(6))
    np.testing.assert_array_equal(loaded.inputs, np.concatenate([images, images]))
    with pytest.raises(FileNotFoundError, match="no TFRecord shards named test-00000"):
        data.load(tmp_path, split="test")


def test_bad_files_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no"):
        data.load(tmp_path / "none.npy")
    (tmp_path / "junk.npy").write_bytes(b"not numpy")
    with pytest.raises(ValueError, match="is neither .npy nor .npz"):
        data.load(tmp_path / "junk.npy")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="expected one named images"):
        data.load(tmp_path / "other.npz")


def test_several_inputs_by_name(tmp_path):
    foo, bar, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)[:, None], np.arange(6)
    np.savez(tmp_path / "two.npz", foo=foo, bar=bar, labels=y)
    loaded = data.load(tmp_path / "two.npz", names=["foo", "bar"], limit=4)
    assert list(loaded.inputs) == ["foo", "bar"] and len(loaded) == 4
    np.testing.assert_array_equal(loaded.inputs["bar"], bar[:4])
    np.testing.assert_array_equal(loaded.labels, y[:4])
    np.testing.assert_array_equal(data.load(tmp_path / "two.npz", names=["bar"]).inputs, bar)
    np.savez(tmp_path / "xy.npz", x=foo, y=bar)  # inputs may have the names that labels and images have elsewhere
    loaded = data.load(tmp_path / "xy.npz", names=["x", "y"])
    assert loaded.labels is None and list(loaded.inputs) == ["x", "y"]
    with pytest.raises(ValueError, match="one for each input of the network, missing baz"):
        data.load(tmp_path / "two.npz", names=["foo", "baz"])
    np.savez(tmp_path / "short.npz", foo=foo, bar=bar[:3])
    with pytest.raises(ValueError, match="examples along the first axis"):
        data.load(tmp_path / "short.npz", names=["foo", "bar"])
