"""Read what `lvm doctor` found."""

from lvm_pipeline.doctor.diagnosis import State


def by_subject(diagnoses):
    return {f"{diagnosis.area} {diagnosis.subject}": diagnosis for diagnosis in diagnoses}


def the_problem(diagnoses):
    (problem,) = [diagnosis for diagnosis in diagnoses if diagnosis.state is State.PROBLEM]
    assert problem.fix
    assert "\n" not in problem.found + problem.fix
    return problem
