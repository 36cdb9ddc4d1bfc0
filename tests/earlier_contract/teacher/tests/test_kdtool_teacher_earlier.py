from kdtool_teacher_earlier import EarlierTeacher
from kdtool_testing import TeacherConformance


class TestEarlierTeacher(TeacherConformance):
    component = EarlierTeacher
    entry_point = "earlier"
