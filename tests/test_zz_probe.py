from test_trainer import *  # noqa
from test_cli import recipe, world, main
from test_trainer import make_sampling_trainer, make_trainer
import pytest
def test_odd(make_sampling_trainer):
    t=make_sampling_trainer("odd", max_steps=3); t.train()
    t=make_sampling_trainer("odd", max_steps=6); t.train(resume_from_checkpoint=True)
def test_fraction(make_config):
    make_config(save_strategy="steps", save_steps=0.5, max_steps=6)
    raise AssertionError("accepted")
def test_zero(make_config):
    make_config(problems_per_rollout=0)
    raise AssertionError("accepted")
def test_epoch_save(make_sampling_trainer):
    t=make_sampling_trainer("ep", save_strategy="epoch", max_steps=-1, num_train_epochs=2); t.train()
    t2=make_sampling_trainer("ep", save_strategy="epoch", max_steps=-1, num_train_epochs=3); t2.train(resume_from_checkpoint=True)
def test_few(recipe):
    assert main(["train", *recipe("sgpo"), "--problems_per_rollout", "100"])==2
def test_model(recipe):
    assert main(["train", *recipe("sgpo"), "--model", "/nope/x"])==2
def test_model_eval(recipe,world):
    assert main(["eval", "--model", "/nope/x", "--problems", str(world/"test.jsonl")])==2
def test_weights(make_trainer):
    t=make_trainer(); t.reward_weights=[1.0,2.0]; t.train()
def test_empty_strategy(make_trainer, problems):
    t=make_trainer(train_dataset=[*problems[:7], trainer_module.replace(problems[7], strategy="")]); t._sample(t.train_dataset)
def test_long_prompt(recipe, world, tmp_path):
    p=tmp_path/"l.jsonl"; p.write_text('{"prompt": "%s", "answer": "2"}\n' % ("Compute 1+1 "*200))
    assert main(["eval", "--model", str(world/"base"), "--problems", str(p)])==2
def test_unwritable(recipe):
    assert main(["train", *recipe("sgpo"), "--resume", "true"])==2
